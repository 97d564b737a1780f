import sys
from pathlib import Path

# The idle trainer of the overhead benchmark stands in for a real one here too.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "bench"))
