"""The exception tree of medsynth.

    MedsynthError
    ├── ConfigError           params.yaml, --set or the environment says something that can't be
    ├── InputError            a file, a row or an image of the user's is not what it must be
    ├── StateError            what is on disk or in the store contradicts itself
    │   ├── SpecMismatchError     a record of another spec_hash stands where ours should
    │   ├── IncompleteRunError    shards, rows or counts are missing
    │   └── CorruptObjectError    an object's bytes don't match its hash
    ├── StoreError            the store refused (credentials, permission, no such bucket): retrying won't help
    │   └── DiskError             a disk of this machine is full or read-only
    ├── BusyError             another process is at work in the workspace
    ├── WithdrawnError        a release was taken back
    ├── ForeignRunError       a run in a store is of another version of medsynth
    ├── TransientError        a network or a service failed in a way that may pass: the only one retried
    ├── NotReadyError         a service will answer, but not in this run's time: the message says when to start it again
    ├── RiskError             a release would give away more of patients than the configuration allows
    ├── FidelityError         the images of a release look less like real films than the configuration demands
    ├── BudgetError           the budget is used up: everything paid is kept, a higher one goes on from there
    └── ModelOutputError      an LLM answered with something that can't be used

A message says what was wrong, what was found, what was expected and what to do. The CLI prints it as one
line and exits with ``exit_code``; anything outside this tree is a bug and keeps its traceback.
"""


class MedsynthError(Exception):
    """Base of every error that is meant for a user's eyes."""

    exit_code = 1


class ConfigError(MedsynthError):
    """The configuration is invalid; raised before any work."""

    exit_code = 2


class InputError(MedsynthError):
    """User data is invalid; the message names the file and the row."""

    exit_code = 3


class StateError(MedsynthError):
    """State on disk or in the store contradicts itself."""

    exit_code = 4


class SpecMismatchError(StateError):
    """A record belongs to another spec_hash or another shard plan."""


class IncompleteRunError(StateError):
    """A run or a release lacks shards, rows or counts."""


class CorruptObjectError(StateError):
    """The bytes of an object don't match its recorded hash."""


class StoreError(MedsynthError):
    """The object store refused a request for good."""

    exit_code = 5


class DiskError(StoreError):
    """A disk is full or can only be read."""

    exit_code = 11


class BusyError(MedsynthError):
    """Another process is at work in the workspace."""

    exit_code = 12


class WithdrawnError(MedsynthError):
    """A release was taken back by those who published it."""

    exit_code = 13


class ForeignRunError(MedsynthError):
    """A run in a store is of another version of medsynth, so that this one would make other bytes."""

    exit_code = 15


class TransientError(MedsynthError):
    """A failure that may pass: the only kind that is retried."""

    exit_code = 6


class ModelOutputError(MedsynthError):
    """A language model's answer can't be used."""

    exit_code = 7


class BudgetError(MedsynthError):
    """The budget for a language model is used up."""

    exit_code = 8


class RiskError(MedsynthError):
    """A release is riskier than the configuration allows."""

    exit_code = 9


class FidelityError(MedsynthError):
    """The images look less like real films than the configuration demands."""

    exit_code = 14


class NotReadyError(MedsynthError):
    """A service needs longer than a run waits: it isn't asked again until the run is started again, which goes on."""

    exit_code = 10
