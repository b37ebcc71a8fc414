"""What several strategies expect of a run, each with the reason why."""

from rounds.aggregation.contract import OptionError, Setting


def plain_sgd(setting: Setting, why: str) -> None:
    """Refuses participants that train by anything but SGD without momentum.

    Args:
        setting: of the run.
        why: how the strategy depends on it, a clause after a colon.

    Raises:
        OptionError: of the field `hyperparameters.optimizer` or `hyperparameters.momentum`.
    """
    sgd(setting, why)
    momentum = setting.hyperparameters.get("momentum", 0.0)
    if momentum:
        detail = f"Expected SGD without momentum: {why}. Received: {momentum!r}"
        raise OptionError("hyperparameters.momentum", detail)


def sgd(setting: Setting, why: str) -> None:
    """Refuses participants that train by anything but SGD (see `plain_sgd`)."""
    optimizer = setting.hyperparameters.get("optimizer", "sgd")
    if optimizer != "sgd":
        detail = f"Expected 'sgd': {why}. Received: {optimizer!r}"
        raise OptionError("hyperparameters.optimizer", detail)


def steady_pull(setting: Setting, option: str, pull: float) -> None:
    """Refuses a pull to the base weights that pushes away: with η · pull ≥ 2, each step of SGD
    goes as far beyond them as it came from, or farther.

    Args:
        setting: of the run.
        option: the name of the strategy's option.
        pull: its value.

    Raises:
        OptionError: of the field of that option.
    """
    rate = setting.hyperparameters.get("learning_rate", 0.0)
    if setting.hyperparameters.get("optimizer", "sgd") == "sgd" and rate * pull >= 2:
        raise OptionError(
            f"strategy_options.{option}",
            f"Expected {option} below 2 / learning_rate = {2 / rate:g}, for each step would go "
            f"beyond the base weights by as much as it came from, or more. Received: {pull!r}",
        )


def learning_rate(setting: Setting) -> float:
    """Returns the participants' learning rate. Raises ValueError where the setting tells none."""
    if "learning_rate" not in setting.hyperparameters:
        received = sorted(setting.hyperparameters)
        raise ValueError(f"Expected the setting to tell a learning_rate. Received: {received}")
    return float(setting.hyperparameters["learning_rate"])
