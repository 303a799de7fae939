"""What ecograph says when something is wrong, or when nothing happened."""


class NoEffectWarning(UserWarning):
    """A pass, a filter or a schedule matched nothing, so training will cost what it did before."""


class NeverReachedWarning(UserWarning):
    """A search has found no setting that reaches its target."""
