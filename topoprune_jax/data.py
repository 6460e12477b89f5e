"""Data sets of tensorflow-datasets with random access, read and made without tensorflow.

Needs the extra `data`. `load` reads what lies on disk, in array_record, Parquet or TFRecord files;
`build` makes such a data set of a folder of images or of arrays.
"""

from ._image_building import build as build
from ._image_data import Column as Column
from ._image_data import ImageData as ImageData
from ._image_data import load as load
