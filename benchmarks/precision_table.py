"""Writes the table of benchmarks/README.md about products, from results/precision.json.

python benchmarks/precision_table.py [--check | --show JSON]
"""

from write_tables import main, table

LEAST_QUERIES = 1000


def tables(record):
    sets = record["sets"]
    ways = list(next(iter(sets.values()))["recall"])
    rows = [
        [way] + [f"{share:.4f}" for found in sets.values() for share in found["recall"][way]]
        for way in ways
    ]
    header = ["products"]
    for name, found in sets.items():
        header += [f"{name}, {found['n']:,} x {found['d']}: recall", "of those measured"]
    made = f"Measured at {record['commit'][:12]}, {record['neighbors']} neighbors."
    return f"{made}\n\n{table(header, rows)}"


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        "precision",
        tables,
        lambda record: record["queries"] < LEAST_QUERIES,
    )
