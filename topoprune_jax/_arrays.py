"""Files of whole arrays: NumPy's own, safetensors and HDF5."""

import zipfile
from typing import Any

import numpy as np

from ._files import DAMAGED, FileError, damage
from ._sources import OTHER, TEXT, ArraySource, Field, Source, kind_of

_FLOATS = ("F", "BF")


def open_npy(file: str) -> Source:
    """The one array of a `.npy` file, memory-mapped."""
    try:
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError:
            # An array without entries has no bytes to map; anything else fails here again.
            array = np.load(file, allow_pickle=False)
    except DAMAGED as error:
        raise _damage(f"'{file}'", error) from error
    return _Npy(file, "array", {"": Field(array.shape, kind_of(array.dtype))}, lambda _: array)


class _Npy(ArraySource):
    def find(self, name: str) -> str:
        """Nothing: the array has no name."""
        raise FileError(
            f"cannot read '{name}' from '{self.file}': a .npy file holds one array without a name, "
            f"so leave '{name}' out."
        )


def open_npz(file: str) -> Source:
    """The arrays of a `.npz` file, seen by their headers."""
    try:
        with zipfile.ZipFile(file) as archive:
            fields = {
                member.removesuffix(".npy"): _npz_field(archive, member)
                for member in archive.namelist()
                if member.endswith(".npy")
            }
    except DAMAGED as error:
        raise _damage(f"'{file}'", error) from error
    if not fields:
        raise FileError(f"cannot read '{file}': it is a zip file without NumPy arrays.")

    def load(name: str) -> np.ndarray:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return arrays[name]
        except DAMAGED as error:
            raise _damage(f"'{name}' from '{file}'", error) from error

    return _Npz(file, "array", fields, load)


class _Npz(ArraySource):
    def find(self, name: str) -> str:
        """The name of an array, which may also be that of its member of the zip file."""
        return super().find(name if name in self.fields else name.removesuffix(".npy"))


def _npz_field(archive: zipfile.ZipFile, member: str) -> Field:
    """One array from its header alone."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            return Field(None, OTHER)
    return Field(shape, kind_of(dtype))


def _damage(what: str, error: BaseException) -> FileError:
    if "object" in str(error).lower():
        return FileError(
            f"cannot read {what}: it holds Python objects, and loading those could run code; "
            "save an array of numbers."
        )
    return damage(what, error)


def open_safetensors(file: str) -> Source:
    """The tensors of a `.safetensors` file; bfloat16 comes as NumPy's bfloat16 of ml_dtypes."""
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            "reading .safetensors needs safetensors; "
            "install it with: pip install 'topoprune-jax[io]'"
        ) from error
    damaged = (*DAMAGED, safetensors.SafetensorError)

    def opened() -> Any:
        return safetensors.safe_open(file, framework="numpy")

    try:
        with opened() as tensors:
            slices = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
            fields = {
                name: Field(tuple(part.get_shape()), _safetensors_kind(part.get_dtype()))
                for name, part in slices.items()
            }
    except damaged as error:
        raise damage(f"'{file}'", error) from error
    if not fields:
        raise FileError(f"cannot read '{file}': it holds no tensors.")

    def load(name: str) -> np.ndarray:
        try:
            with opened() as tensors:
                return tensors.get_tensor(name)
        except damaged as error:
            raise damage(f"'{name}' from '{file}'", error) from error

    return ArraySource(file, "tensor", fields, load)


def _safetensors_kind(dtype: str) -> str:
    if dtype.startswith(_FLOATS):
        return "f"
    return {"I": "i", "U": "u", "B": "b"}.get(dtype[0], OTHER)


def open_hdf5(file: str) -> Source:
    """The data sets of an HDF5 file, those in groups as `group/name`."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading .h5 needs h5py; install it with: pip install 'topoprune-jax[io]'"
        ) from error
    fields: dict[str, Field] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            text = h5py.check_string_dtype(node.dtype) is not None
            fields[name] = Field(node.shape, TEXT if text else kind_of(node.dtype))

    try:
        with h5py.File(file, "r") as archive:
            archive.visititems(visit)
    except DAMAGED as error:
        raise damage(f"'{file}'", error) from error
    if not fields:
        raise FileError(f"cannot read '{file}': it holds no data sets.")

    def load(name: str) -> np.ndarray:
        if fields[name].kind == OTHER:
            raise FileError(
                f"cannot read '{name}' from '{file}': it holds neither numbers nor text."
            )
        try:
            with h5py.File(file, "r") as archive:
                data: Any = archive[name]
                if fields[name].kind == TEXT:
                    return np.asarray(data.asstr()[()]).astype(str)
                return np.asarray(data[()])
        except DAMAGED as error:
            raise damage(f"'{name}' from '{file}'", error) from error

    return ArraySource(file, "data set", fields, load)
