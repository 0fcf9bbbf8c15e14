"""What can go wrong in training on purpose? Each error is one line that says what, where, and what to do."""


class TrainingError(Exception):
    """Base of all expected errors; the command line prints it as one line and ends with code 2."""


class ConfigError(TrainingError):
    """The configuration is wrong; the message names the file, the key, and what is allowed."""


class DataError(TrainingError):
    """A data set is absent, not laid out as expected, or used for what it must not be used for."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or is not what it should be."""
