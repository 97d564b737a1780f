import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def pixels():
    """The digits as PIL takes them: uint8 (n, 8, 8)."""
    return (load_digits().images * 15).astype(np.uint8)


@pytest.fixture
def write_images(pixels):
    """Digits, all different, as ``folder/CLASS/*``: a few of each class as JPEG, the rest PNG."""
    unused = iter(pixels)

    def write(folder, **counts):
        for name, count in counts.items():
            (folder / name).mkdir(parents=True)
            for i in range(count):
                suffix = "jpg" if i < 2 else "png"
                Image.fromarray(next(unused)).save(folder / name / f"{i}.{suffix}", quality=100)
        return folder

    return write
