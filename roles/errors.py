"""Errors of the roles.

RoleError
├── RoundFailed      a round closed below its quorum; the text names the ends and why each is missing
├── StateLost        a worker's own state of an earlier round is needed and gone; the text says what to do
├── BadModel         a module or data module that cannot take part; the text says what to change
└── UnexpectedMessage  a peer sent something that this role does not expect now
"""


class RoleError(Exception):
    """Base of every error that a role raises on purpose."""


class RoundFailed(RoleError):
    """Too few ends delivered a usable update.

    `lost`: all those that are missing were lost, which has a cause elsewhere; `starved`: none could be lent, which is no loss.
    """

    def __init__(self, text: str, *, lost: bool = False, starved: bool = False) -> None:
        super().__init__(text)
        self.lost = lost
        self.starved = starved


class StateLost(RoleError):
    """What a worker remembered of an earlier round is needed and gone."""


class BadModel(RoleError):
    """The module, its state or its data cannot take part in the job."""


class UnexpectedMessage(RoleError):
    """A message of a kind or round that does not fit what the role is doing."""
