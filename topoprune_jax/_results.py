"""Outcomes that only the data can decide, so that they are values and not exceptions."""

import equinox as eqx


class RESULTS(eqx.Enumeration):
    """How a computation ended; each member is its own message.

    Under `jit` and `vmap` an outcome is an array like any other: compare it
    (`diagram.result == RESULTS.successful`) or print it (`RESULTS[result]`).
    """

    successful = ""
    not_finite = (
        "The point cloud holds NaN or infinity, so its diagram is NaN; "
        "remove or replace those values."
    )
    capacity_exceeded = (
        "There are more persistence pairs than `capacity` has room for; only the most persistent "
        "were kept. Pass a larger `capacity`."
    )
    host_failed = "gudhi failed on this point cloud, so its diagram is NaN."
    all_identical = (
        "All samples have the same features (up to a factor, unless `normalize=False`), so nothing "
        "tells them apart: any other choice would be as good."
    )
    features_not_finite = (
        "Some features are NaN or infinite; those samples were taken for zeros. Remove or replace "
        "them."
    )
    features_noisy = (
        "The features are noisy, so samples were compared in discriminant coordinates of their "
        'classes; `space="features"` compares them as they are.'
    )
