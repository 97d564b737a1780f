import sys
from pathlib import Path

# The idle trainer of the overhead benchmark stands in for a real one here too; processes that are
# to be killed import from beside the tests, and so do the tests.
sys.path[:0] = [str(Path(__file__).parents[2] / "scripts" / "bench"), str(Path(__file__).parent)]
