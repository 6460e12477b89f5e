"""The field's other methods: `rank`'s signature, each with its paper and its fidelity."""

from ._ccs import ccs as ccs
from ._common import Pruning as Pruning
from ._d2 import d2 as d2
from ._discriminant_margin import discriminant_margin as discriminant_margin
from ._dynamics import aum as aum
from ._dynamics import el2n as el2n
from ._dynamics import forgetting as forgetting
from ._herding import herding as herding
from ._k_center import k_center_greedy as k_center_greedy
from ._moderate import moderate as moderate
from ._prototypes import prototypes as prototypes
from ._random import class_balanced_random as class_balanced_random
from ._random import random as random
from ._semantic_deduplication import semantic_deduplication as semantic_deduplication
from ._zcore import zcore as zcore
