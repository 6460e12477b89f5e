"""How a computation on the host ended, item by item: values, since nothing here may raise."""

OK, NOT_FINITE, FAILED = 0, 1, 2
