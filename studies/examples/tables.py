"""Made-up tables for sales.toml and reviews.toml: ``python tables.py`` writes both CSV files here.

sales.csv is what a spreadsheet writes in much of Europe: semicolons, decimal commas, 31.12.2025.
reviews.csv has a text per row, whose label is in its words.
"""

from pathlib import Path

import numpy as np
import pandas as pd

DRAW = np.random.default_rng(0)
GOOD = "lovely great sturdy quick perfect bright cheap honest".split()  # noqa: SIM905
BAD = "awful weak broken slow useless dull overpriced false".split()  # noqa: SIM905
THINGS = "lamp kettle chair phone jacket speaker".split()  # noqa: SIM905


def sales(rows: int = 600) -> pd.DataFrame:
    """Units per shop and day: more on Saturdays, in December and at low prices."""
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(DRAW.integers(0, 730, rows), "D")
    price = DRAW.uniform(2, 5, rows).round(2)
    units = 40 + 25 * (day.day_of_week == 5) + 30 * (day.month == 12) - 6 * price
    frame = pd.DataFrame({"order_id": DRAW.permutation(rows) + 70_000, "day": day})
    frame["shop"] = DRAW.choice(["Lyon", "Köln", "Gent"], rows)
    frame["price"] = price
    frame["units"] = (units + DRAW.normal(0, 4, rows)).round(1)
    frame.loc[::50, "units"] = np.nan
    return frame


def reviews(rows: int = 600) -> pd.DataFrame:
    """A few words on a thing that was bought, and whether the buyer was happy."""
    happy = DRAW.random(rows) < 0.6
    texts = []
    for words in np.where(happy, "good", "bad"):
        first, second = DRAW.choice(GOOD if words == "good" else BAD, 2)
        texts.append(f"a {first} {DRAW.choice(THINGS)}, {second}")
    return pd.DataFrame({"review": texts, "happy": np.where(happy, "yes", "no")})


if __name__ == "__main__":
    options = {"sep": ";", "decimal": ",", "date_format": "%d.%m.%Y", "encoding": "cp1252"}
    sales().to_csv(Path("sales.csv"), index=False, **options)
    reviews().to_csv(Path("reviews.csv"), index=False)
