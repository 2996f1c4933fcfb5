"""The three documents that a user writes: reading them from files and checking them against their JSON Schema."""

from flame_run.documents.check import DOCUMENTS, check_document, strip_comments
from flame_run.documents.load import load_document
from flame_run.documents.spelling import legal_values, nearest

__all__ = ["DOCUMENTS", "check_document", "legal_values", "load_document", "nearest", "strip_comments"]
