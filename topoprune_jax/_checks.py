"""Turns what a user hands in into arrays, or says in one sentence what to change.

Only shapes and types can be judged while JAX traces; values are looked at when they are there.
"""

import os
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._types import Array, ArrayInput, Key

LARGEST_BETA = 50.0  # its exponential is a weight
_CHUNK_BYTES = 1 << 26
_FEW_BYTES, _FEW_BYTES_HERE = 1 << 16, 1 << 26  # that NumPy looks at; here is in its own memory
_LARGEST_COUNT = 2**63 - 1


def _kind(array: Any) -> str:
    return "float" if jnp.issubdtype(array.dtype, jnp.floating) else array.dtype.kind


def as_array(values: ArrayInput, *, name: str) -> Array | np.ndarray:
    """`values` as a JAX or NumPy array of real numbers, not copied where it already is one."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a masked array, whose mask JAX would ignore; got {values.shape} with "
            f"{np.ma.count_masked(values)} masked entries. Fill or drop the masked entries first."
        )
    if hasattr(values, "tocoo") or hasattr(values, "todense"):
        raise TypeError(
            f"`{name}` must be a dense array; got a sparse {type(values).__name__}. "
            "Convert it with `.toarray()`, or reduce its dimension first."
        )
    if not isinstance(values, jax.Array | np.ndarray):
        try:
            values = np.asarray(values)
        except (ValueError, TypeError, RuntimeError) as error:
            ragged = isinstance(values, list | tuple) and isinstance(error, ValueError)
            hint = "Pass rows of equal length." if ragged else f"It says: {_first_line(error)}"
            raise TypeError(
                f"`{name}` must be an array of numbers; got {type(values).__name__}, which NumPy "
                f"cannot read as one array. {hint}"
            ) from error
    if jnp.issubdtype(values.dtype, jnp.complexfloating):
        raise TypeError(
            f"`{name}` must hold real numbers; got complex dtype {values.dtype}. "
            "Pass the real part, or stack real and imaginary parts as features."
        )
    if _kind(values) not in ("float", "i", "u", "b"):
        raise TypeError(
            f"`{name}` must hold numbers; got dtype {values.dtype}. "
            "Convert it to a float array first."
        )
    return values


def _first_line(error: Exception) -> str:
    """What an error of others says, cut to a sentence."""
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return textwrap.shorten(said, 160, placeholder=" ...").rstrip(".") + "."


def is_traced(values: Any) -> bool:
    """Whether `values` has no values yet because JAX is tracing."""
    return isinstance(values, Tracer)


def is_tracing() -> bool:
    """Whether every new array is traced here, whatever it is made of, as inside `jit`."""
    return is_traced(jnp.zeros(()))


def known_values() -> AbstractContextManager:
    """Inside it, arrays that a traced function closes over can be looked at as outside."""
    return jax.ensure_compile_time_eval()


def _row_chunks(values: np.ndarray) -> range:
    row_bytes = max(1, values.nbytes // max(1, values.shape[0]))
    return range(0, values.shape[0], max(1, _CHUNK_BYTES // row_bytes))


def check_finite(values: Array | np.ndarray, *, name: str, first_row: int = 0) -> None:
    """Raises if any entry is NaN or infinite. Looks at a slab of rows at a time."""
    if is_traced(values) or _kind(values) != "float":
        return
    if isinstance(values, jax.Array):
        # To start a program takes far longer than to look at a few numbers.
        most = _FEW_BYTES_HERE if _is_on_cpu(values) else _FEW_BYTES
        is_small = values.nbytes <= most and values.is_fully_addressable
        if not is_small:
            with known_values():
                fine = bool(_all_finite(values))
            if fine:
                return
        values = np.asarray(values)
    step = _row_chunks(values).step
    for start in _row_chunks(values):
        rows = values[start : start + step]
        finite = np.isfinite(rows if rows.dtype.kind == "f" else np.asarray(rows, np.float64))
        if not finite.all():
            row = first_row + start + int(np.argwhere(~finite)[0][0])
            raise ValueError(
                f"`{name}` must be finite; got NaN or infinity, first in row {row}. "
                "Remove or replace those values."
            )


def _is_on_cpu(values: Array) -> bool:
    return all(device.platform == "cpu" for device in values.devices())


@jax.jit
def _all_finite(values: Array) -> Array:
    return jnp.isfinite(values).all()


def float_dtype(dtype: Any) -> np.dtype:
    """The dtype that computation uses: float64 where JAX allows it, else float32."""
    wide = np.dtype(dtype).newbyteorder("=") == np.float64 and jax.config.read("jax_enable_x64")
    return np.dtype(np.float64 if wide else np.float32)


def check_matrix_shape(values: Array | np.ndarray, *, name: str, min_points: int) -> None:
    """Raises unless `values` is (n, d) with n >= `min_points` and d >= 1."""
    if values.ndim != 2:
        hint = (
            "Reshape it to (n, 1) if each entry is one sample."
            if values.ndim == 1
            else "Flatten each sample into one row of features."
        )
        raise ValueError(
            f"`{name}` must be a 2-D array, one row a sample; got {values.ndim}-D "
            f"with shape {values.shape}. {hint}"
        )
    if values.shape[0] < min_points:
        raise ValueError(
            f"`{name}` must have at least {min_points} row{'s' if min_points > 1 else ''}; "
            f"got shape {values.shape}. Pass one row for every sample."
        )
    if values.shape[1] == 0:
        raise ValueError(
            f"`{name}` must have at least one column; got shape {values.shape}. "
            "Pass one column for every feature."
        )


def check_points(points: ArrayInput, *, name: str = "points", min_points: int = 1) -> Array:
    """`points` as a finite (n, d) JAX array of float32, or of float64 where that is enabled.

    **Raises:** TypeError for a wrong type; ValueError for a wrong shape, too few points, NaN,
    infinity, or values beyond the range of float32.
    """
    values = as_array(points, name=name)
    check_matrix_shape(values, name=name, min_points=min_points)
    check_finite(values, name=name)
    dtype = float_dtype(values.dtype)
    if isinstance(values, jax.Array) and values.dtype == dtype and not values.weak_type:
        return values
    if is_traced(values) or isinstance(values, jax.Array):
        return jnp.asarray(values, dtype=dtype)
    with np.errstate(over="ignore"):
        narrow = np.asarray(values, dtype=dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"`{name}` must fit in {dtype}; got magnitudes up to "
            f"{np.abs(np.asarray(values, dtype=np.float64)).max():.3g}. "
            "Rescale it, or enable 64-bit mode in JAX."
        )
    return jnp.asarray(narrow)


def _as_vector(values: ArrayInput, n: int, *, name: str) -> Array | np.ndarray:
    """`values` as a finite array of shape (n,)."""
    array = as_array(values, name=name)
    if array.shape != (n,):
        raise ValueError(
            f"`{name}` must have shape ({n},), one entry a sample; got shape {array.shape}."
            f" Pass one value for every one of the {n} samples."
        )
    check_finite(array, name=name)
    return array


def check_nonnegative(values: ArrayInput, n: int, *, name: str, hint: str) -> Array | np.ndarray:
    """Values of shape (n,) that are finite and not negative."""
    array = _as_vector(values, n, name=name)
    if not is_traced(array) and (least := float(np.asarray(array).min())) < 0:
        raise ValueError(f"`{name}` must not be negative; got {least:g}. {hint}")
    return array


def check_ranks(values: ArrayInput, n: int, *, name: str) -> Array:
    """Values of shape (n,) of which only the order counts: no range is too large for them."""
    array = _as_vector(values, n, name=name)
    if is_traced(array):
        return jnp.asarray(array, dtype=float_dtype(array.dtype))
    _, ranks = np.unique(np.asarray(array), return_inverse=True)
    return jnp.asarray(ranks.astype(np.float32))


def check_labels(labels: ArrayInput, n: int, *, name: str = "labels") -> Array:
    """Class codes 0 .. n_classes-1 as int32, numbered in the order of the sorted labels.

    Any labels that can be told apart are accepted: integers, whole floats, booleans, strings.
    """
    if is_traced(labels):
        if labels.shape != (n,):
            raise ValueError(
                f"`{name}` must have shape ({n},), one label a sample; got shape {labels.shape}. "
                f"Pass one label for every one of the {n} samples, or leave `{name}` out."
            )
        if not (jnp.issubdtype(labels.dtype, jnp.integer) or labels.dtype == jnp.bool_):
            raise TypeError(
                f"`{name}` must be integers while JAX traces; got dtype {labels.dtype}. "
                "Convert them to integers outside."
            )
        # Not the difference to the least label, which overflows for those far apart.
        _, codes = jnp.unique(labels, return_inverse=True, size=n)
        return codes.astype(jnp.int32)
    if isinstance(labels, np.ma.MaskedArray):
        raise TypeError(
            f"`{name}` is a masked array; got {np.ma.count_masked(labels)} masked entries. "
            "Give every sample a label, or leave `labels` out."
        )
    try:
        values = np.asarray(labels)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"`{name}` must be a list or array of {n} class labels; got {type(labels).__name__}, "
            "which NumPy cannot read as one array. Pass one label for every sample."
        ) from error
    if values.shape != (n,):
        raise ValueError(
            f"`{name}` must have shape ({n},), one label a sample; got shape {values.shape}. "
            f"Pass one label for every one of the {n} samples, or leave `{name}` out."
        )
    if values.dtype.kind in "US" and isinstance(labels, list | tuple):
        text = str if values.dtype.kind == "U" else bytes
        kinds = set(map(type, labels))
        if not all(issubclass(kind, text) for kind in kinds):
            raise TypeError(
                f"`{name}` must be all strings or all integers; got a list of "
                f"{' and '.join(sorted(kind.__name__ for kind in kinds))}, of which NumPy would "
                "make strings. Give every sample a label, and convert them to one type."
            )
    if values.dtype.kind == "O":
        if not all(isinstance(value, str) for value in values):
            raise TypeError(
                f"`{name}` must be integers or strings; got an object array. "
                "Convert it with `.astype(str)` or to integers."
            )
        values = values.astype(str)
    if values.dtype.kind == "T":  # NumPy's strings of variable width
        values = values.astype(str)
    if jnp.issubdtype(values.dtype, jnp.floating):
        whole = values.astype(np.float64)
        if not np.isfinite(whole).all():
            raise ValueError(
                f"`{name}` must name a class for every sample; got NaN or infinity at index "
                f"{int(np.flatnonzero(~np.isfinite(whole))[0])}. "
                "Give it a label or drop the sample."
            )
        if (whole != np.round(whole)).any():
            raise ValueError(
                f"`{name}` must be class labels; got the fraction "
                f"{whole[whole != np.round(whole)][0]:g}. Pass integers or strings."
            )
    elif values.dtype.kind not in "iubUS":
        raise TypeError(
            f"`{name}` must be integers or strings; got dtype {values.dtype}. "
            "Convert them to integers."
        )
    _, codes = np.unique(values, return_inverse=True)
    with known_values():
        return jnp.asarray(codes.astype(np.int32))


def check_order(order: ArrayInput, *, name: str, n: int | None = None) -> np.ndarray:
    """`order` as a NumPy array that holds every whole number from 0 to n - 1 once."""
    if is_traced(order):
        raise TypeError(
            f"`{name}` must be known values; got a traced array. Call it outside `jit`."
        )
    values = np.asarray(as_array(order, name=name))
    if values.ndim != 1 or values.dtype.kind not in "iu" or values.size == 0:
        raise ValueError(
            f"`{name}` must list the samples by whole numbers, at least one; got shape "
            f"{values.shape} of {values.dtype}. Pass the `order` of a ranking."
        )
    n = values.size if n is None else n
    if values.shape != (n,):
        raise ValueError(
            f"`{name}` must order the same {n} samples; got {values.size}. "
            "Compare rankings of the same samples."
        )
    if (np.sort(values) != np.arange(n)).any():
        raise ValueError(
            f"`{name}` must hold every number from 0 to {n - 1} once; got some twice or out of "
            "range. Pass the `order` of a ranking."
        )
    return values


def refuse(sentence: str) -> NoReturn:
    """Raises a ValueError about arguments that do not go together."""
    raise ValueError(sentence)


def static(value: Any, *, name: str) -> Any:
    """The Python number in an array without axes; anything else that is known as it is."""
    if is_traced(value):
        raise TypeError(
            f"`{name}` must be static, since shapes or what is compiled depend on it; got a traced "
            "value. Name it in `static_argnames` of `jit`, or pass a Python number."
        )
    if not isinstance(value, np.ndarray | jax.Array) or value.shape != ():
        return value
    number = {"float": float, "i": int, "u": int}.get(_kind(value))
    return value if number is None else number(value)


def _as_float(value: Any) -> float:
    """`value` as a float, infinite where it is an integer beyond the range of floats."""
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def check_ratio(ratio: Any) -> float:
    """`ratio`, the fraction removed, as a float in [0, 1)."""
    ratio = static(ratio, name="ratio")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float | np.number):
        got = f"shape {np.shape(ratio)}" if hasattr(ratio, "shape") else repr(ratio)
        raise TypeError(
            f"`ratio` must be a number; got {got}. Pass the fraction to remove, such as 0.9."
        )
    value = _as_float(ratio)
    if 1.0 <= value <= 100.0:
        hint = (
            f"Pass {value / 100:g} to remove {value:g} %."
            if 1.0 < value < 100.0
            else "At least one sample must stay: pass a number below 1."
        )
    else:
        hint = "Pass the fraction to remove, such as 0.9 to keep a tenth."
    if not 0.0 <= value < 1.0:
        raise ValueError(
            "`ratio` is the fraction of samples to remove and must be in [0, 1); "
            f"got {value if np.isinf(value) else repr(ratio)}. {hint}"
        )
    return value


def check_instance(value: Any, cls: type, *, name: str, hint: str) -> None:
    """Raises unless `value` is of the class `cls`."""
    if not isinstance(value, cls):
        article = "an" if cls.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"`{name}` must be {article} {cls.__name__}; got {type(value).__name__}. {hint}"
        )


def check_count(value: Any, *, name: str, low: int, high: int | None = None, hint: str = "") -> int:
    """`value` as an int in [low, high]."""
    value = static(value, name=name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{name}` must be a whole number; got {value!r}. {hint}".rstrip())
    if not low <= value <= (_LARGEST_COUNT if high is None else high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        got = f"{name}={value}"
        if abs(int(value)) > _LARGEST_COUNT:
            got = f"a number of {int(value).bit_length()} bits"
            bounds += " and below 2**63" if high is None else ""
        raise ValueError(f"`{name}` must be {bounds}; got {got}. {hint}".rstrip())
    return int(value)


def check_number(
    value: Any, *, name: str, low: float, high: float = np.inf, hint: str = ""
) -> float:
    """`value` as a finite float in [low, high]."""
    value = static(value, name=name)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"`{name}` must be a number; got {value!r}. {hint}".rstrip())
    value = _as_float(value)
    with np.errstate(over="ignore"):
        fits = bool(np.isfinite(np.float32(value)))  # JAX would make infinity of it
    if not low <= value <= high or not fits:
        bounds = f"between {low:g} and {high:g}"
        if high == np.inf:
            finite = [] if fits else ["finite in float32"]
            bounds = " and ".join(finite + ([f"at least {low:g}"] if low > -np.inf else []))
        raise ValueError(f"`{name}` must be {bounds}; got {name}={value:g}. {hint}".rstrip())
    return value


def check_beta(beta: Any) -> float | Array:
    """`beta` as a number, or a traced one, which cannot be looked at."""
    if is_traced(beta) and beta.shape == () and beta.dtype != bool:
        return beta
    hint = "Its exponential is a weight."
    return check_number(beta, name="beta", low=-LARGEST_BETA, high=LARGEST_BETA, hint=hint)


def check_list(values: Any, *, name: str, of: str = "numbers", hint: str) -> list[Any]:
    """The entries of a sequence or an array, which are not looked at."""
    if hasattr(values, "tolist") and not is_traced(values):
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise TypeError(f"`{name}` must be a list of {of}; got {values!r}. {hint}")
    return list(values)


def check_path(path: Any, *, name: str, hint: str) -> Path:
    """`path`, a text or a path that is not empty."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise TypeError(f"`{name}` must be a path; got {path!r}. {hint}")
    return Path(os.fsdecode(path))


def check_key(key: Any) -> Key:
    """`key` as a single typed PRNG key."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(
            f"`key` must be a typed PRNG key; got {type(key).__name__}. "
            "Make one with `jax.random.key(0)`."
        )
    if key.shape != ():
        raise ValueError(
            f"`key` must be one key; got an array of keys of shape {key.shape}. "
            "Use `jax.vmap` to run over several keys."
        )
    return key


def check_names(names: ArrayInput, n: int, *, name: str) -> list[str]:
    """One name for every sample, numbers or strings, as text."""
    try:
        values = np.asarray(names)
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"`{name}` must be a list or array of {n} names; got {type(names).__name__}, which "
            "NumPy cannot read as one array. Pass one name for every sample."
        ) from error
    if values.shape != (n,):
        raise ValueError(
            f"`{name}` must have shape ({n},), one name a sample; got shape {values.shape}."
            f" Pass one name for every one of the {n} samples, or leave `{name}` out."
        )
    listed = values.tolist()
    for value in listed:
        if not isinstance(value, str | bytes | int | float):
            raise TypeError(
                f"`{name}` must be strings or numbers; got {type(value).__name__}. "
                "Convert them with `.astype(str)`."
            )
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in listed]


def check_pictures(images: ArrayInput, n: int, *, name: str = "images") -> np.ndarray:
    """Pictures (n, h, w), (n, h, w, 1), (n, h, w, 3) or (n, h, w, 4), not read into memory."""
    values = as_array(images, name=name)
    shape = values.shape
    layout = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))
    if not layout or 0 in shape[1:3]:
        hint = ""
        if len(shape) == 4 and shape[1] in (1, 3, 4):
            hint = " Move the channels to the end: `images.transpose(0, 2, 3, 1)`."
        elif len(shape) == 2:
            hint = " Reshape every row to the height and width of its picture."
        raise ValueError(
            f"`{name}` must have shape (n, height, width), or (n, height, width, 3) in color; "
            f"got shape {shape}.{hint}"
        )
    if shape[0] != n:
        raise ValueError(
            f"`{name}` must hold one picture for every one of the {n} samples; got {shape[0]}. "
            f"Pass the pictures in the order of the features, or leave `{name}` out."
        )
    return np.asarray(values) if isinstance(values, jax.Array) else values
