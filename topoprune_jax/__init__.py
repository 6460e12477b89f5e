"""Topological data pruning in JAX: which samples to keep when you train on a tenth of your data."""

__version__ = "0.1.0"

from ._beta import choose_beta as choose_beta
from ._diagram import Diagram as Diagram
from ._diagram import Generators as Generators
from ._diagram_distances import bottleneck_distance as bottleneck_distance
from ._diagram_distances import wasserstein_distance as wasserstein_distance
from ._embedding import EmbeddingOptions as EmbeddingOptions
from ._embedding import embed as embed
from ._ensemble import EmbeddingEnsemble as EmbeddingEnsemble
from ._ensemble import embed_ensemble as embed_ensemble
from ._filtrations import distance_to_measure as distance_to_measure
from ._filtrations import graph_components as graph_components
from ._filtrations import lower_star as lower_star
from ._filtrations import rips_from_distances as rips_from_distances
from ._filtrations import weighted_rips as weighted_rips
from ._fuzzy import FuzzySimplicialSet as FuzzySimplicialSet
from ._fuzzy import fuzzy_simplicial_set as fuzzy_simplicial_set
from ._graph import NeighborGraph as NeighborGraph
from ._graph import knn_graph as knn_graph
from ._persistence import diagram_from_generators as diagram_from_generators
from ._persistence import rips_generators as rips_generators
from ._persistence import vietoris_rips as vietoris_rips
from ._rank import Ranking as Ranking
from ._rank import rank as rank
from ._results import RESULTS as RESULTS
from ._score import structural_complexity as structural_complexity
from ._select import Selection as Selection
from ._select import class_agreement as class_agreement
from ._select import select as select
from ._spectral import principal_components as principal_components
from ._spectral import spectral_embedding as spectral_embedding
from ._spectral import spectral_start as spectral_start
from ._strata import kmeans_strata as kmeans_strata
from ._summaries import betti_curve as betti_curve
from ._summaries import persistence_image as persistence_image
from ._summaries import persistence_landscape as persistence_landscape
from ._summaries import persistence_silhouette as persistence_silhouette
from ._summaries import persistent_entropy as persistent_entropy
from ._summaries import sliced_wasserstein as sliced_wasserstein
from ._summaries import total_persistence as total_persistence
from ._topology import TopologicalOptimization as TopologicalOptimization
from ._topology import optimize_topology as optimize_topology
from ._transform import ManifoldState as ManifoldState
from ._transform import transform as transform
