"""What happens when an energy or a parameter is not finite."""

from nqs.archive.archive import Archive
from nqs.estimators.estimate import EnergyEstimate

MIN_DAMPING = 2.0**-5  # of the update after a state that was not finite: five halvings
RECOVERY = 1.1  # growth of the damping factor with every good step


class NonFiniteError(FloatingPointError):
    """An energy or a parameter became infinite or not a number."""


def _what_to_try(where: str, estimate: EnergyEstimate, file: Archive | None, retries: int = 0) -> str:
    tried = f", not even from the state before and with the update halved {retries} times" if retries else ""
    kept = f"The state before it is in {file.path}." if file is not None else "The state before it was restored."
    return (
        f"{where}: energy {estimate.energy}, variance {estimate.variance}, or the update, is not finite{tried}. {kept} "
        "Try a smaller learning_rate or max_step, a larger diagonal_shift, or dtype='float64'."
    )
