"""The errors a user may read: each message is one sentence, what is wrong and what to do.

The app shows the text of an `AtelierError` as it is; every other exception is a bug and is shown
as "something went wrong" with the details in the log.
"""


class AtelierError(Exception):
    """Base of all errors whose text is written for the person in front of the page."""


class InputError(AtelierError, ValueError):
    """What was given cannot be used: a missing picture, too many labels, an unknown model."""


class WeightsError(AtelierError):
    """A model's files are missing, broken, tampered with, or cannot be downloaded."""


class OfflineError(WeightsError):
    """A download is needed and there is no network, or `--offline` forbids it."""


class DeviceError(AtelierError):
    """The device is absent, or its memory is used up."""
