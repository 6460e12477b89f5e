"""Topological data pruning in JAX: which samples to keep when you train on a tenth of your data."""

__version__ = "0.1.0"

from ._embedding import EmbeddingOptions as EmbeddingOptions
from ._embedding import embed as embed
from ._ensemble import EmbeddingEnsemble as EmbeddingEnsemble
from ._ensemble import embed_ensemble as embed_ensemble
from ._fuzzy import FuzzySimplicialSet as FuzzySimplicialSet
from ._fuzzy import fuzzy_simplicial_set as fuzzy_simplicial_set
from ._graph import NeighborGraph as NeighborGraph
from ._graph import knn_graph as knn_graph
from ._persistence import Diagram as Diagram
from ._persistence import Generators as Generators
from ._persistence import diagram_from_generators as diagram_from_generators
from ._persistence import rips_generators as rips_generators
from ._persistence import vietoris_rips as vietoris_rips
from ._rank import Ranking as Ranking
from ._rank import rank as rank
from ._results import RESULTS as RESULTS
from ._score import structural_complexity as structural_complexity
from ._select import Selection as Selection
from ._select import select as select
from ._spectral import principal_components as principal_components
from ._spectral import spectral_embedding as spectral_embedding
from ._spectral import spectral_start as spectral_start
from ._strata import kmeans_strata as kmeans_strata
from ._summaries import total_persistence as total_persistence
from ._transform import ManifoldState as ManifoldState
from ._transform import transform as transform
