"""Who a certificate stands for: one worker of one role, in one domain, written as a URI in its subject alternative names."""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from cryptography import x509

_URI = re.compile(r"flame-run://([^/?#]+)/([^/?#]+)/([^/?#]+)")


@dataclass(frozen=True, slots=True)
class Identity:
    """A worker, or the controller, as a certificate names it."""

    domain: str
    """What the certificates of one job, or of one federation, have in common."""
    role: str
    name: str

    @property
    def uri(self) -> str:
        """`flame-run://DOMAIN/ROLE/NAME`, each part percent-encoded."""
        return "flame-run://" + "/".join(quote(part, safe="") for part in (self.domain, self.role, self.name))

    def __str__(self) -> str:
        return f"{self.name} (role {self.role}, {self.domain})"


def identity_of(certificate: x509.Certificate) -> Identity:
    """Who a certificate stands for.

    Raises:
        ValueError: it holds no `flame-run://DOMAIN/ROLE/NAME`, or several.
    """
    names = alternative_names(certificate)
    uris = [] if names is None else names.get_values_for_type(x509.UniformResourceIdentifier)
    found = [match for uri in uris if (match := _URI.fullmatch(uri))]
    if len(found) != 1:
        held = ", ".join(uris) or "none"
        raise ValueError(f"its URI names are not one flame-run://DOMAIN/ROLE/NAME: {held}")
    domain, role, name = (unquote(part, errors="strict") for part in found[0].groups())
    return Identity(domain, role, name)


def alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """The subject alternative names of a certificate, None if it has none.

    Raises:
        ValueError: an extension that cannot be read.
    """
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error
