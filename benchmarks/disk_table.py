"""Writes the table of benchmarks/README.md about a ranking from disk, from results/disk.json.

python benchmarks/disk_table.py [--check | --show JSON]
"""

from write_tables import main, table

MOST_SECONDS, MOST_BYTES, LEAST_SAMPLES = 3600, 3e9, 1_000_000


def tables(record):
    wall, peak = record["wall_seconds"], record["peak_memory_bytes"]
    rows = [[name, f"{seconds:,.0f}"] for name, seconds in record["seconds"].items()]
    met = {True: "yes", False: "**no**"}
    rows += [
        ["whole command, at most 3,600", f"{wall:,.0f} {met[wall <= MOST_SECONDS]}"],
        ["peak resident memory, GB, below 3", f"{peak / 1e9:.2f} {met[peak < MOST_BYTES]}"],
        ["file, GB", f"{record['file_bytes'] / 1e9:.2f}"],
        ["true neighbors found", f"{record['recall']:.3f}"],
    ]
    made = f"Measured at {record['commit'][:12]} on {record['machine']['cores']} cores of "
    made += f"{record['machine']['processor']}."
    size = f"{record['n_samples']:,} x {record['dims']}: seconds"
    return f"{made}\n\n{table([size, ''], rows)}"


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0], "disk", tables, lambda record: record["n_samples"] < LEAST_SAMPLES
    )
