"""All spaces that ``make prove`` runs."""

from proofs import crossing_spaces, join_spaces, linear_spaces, merge_spaces
from proofs.exact import Space

SPACES: tuple[Space, ...] = (
    *linear_spaces.SPACES,
    *merge_spaces.SPACES,
    *crossing_spaces.SPACES,
    *join_spaces.SPACES,
)
