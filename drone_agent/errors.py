"""What can go wrong, by who has to act: one exception class for each kind of answer."""


class AgentError(Exception):
    """Base of every error that the agent raises on purpose; the message is one line for the operator."""

    exit_code = 1


class ConfigError(AgentError):
    """The configuration is wrong; the message names file, line, key, what was found and what is allowed."""

    exit_code = 2


class InputError(AgentError):
    """A file or folder given on the command line cannot be used."""

    exit_code = 2


class CameraLost(AgentError):
    """The source of frames cannot be opened or stopped giving new frames."""

    exit_code = 3


class LinkLost(AgentError):
    """The link to the autopilot is gone or its reader died."""

    exit_code = 4


class ModelRejected(AgentError):
    """The model bundle is incomplete, damaged, or not what its manifest says."""

    exit_code = 5


class FlightLogError(AgentError):
    """The flight log cannot be written or read."""

    exit_code = 6


class SprayerError(AgentError):
    """The spray actuator cannot be set up or does not obey."""

    exit_code = 7
