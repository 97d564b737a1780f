"""One look per family: the same colour, dash and marker in every figure.

Seven hues after Okabe and Ito (2008), which colour-blind readers can tell apart, their lightness
moved so that each stands out at 3:1 on white and on a dark page alike; three dashes and marker
shapes make twenty-one looks of them. The families that people compare most come first.
"""

from typing import Any, NamedTuple


class Look(NamedTuple):
    """How one family is drawn."""

    colour: str
    dash: str
    symbol: str


BLUE, ORANGE, GREEN, RED = "#1f7ec2", "#cc8400", "#00976e", "#d95f0e"
PINK, SKY, GREY = "#c4669a", "#3f9fd6", "#8a8a8a"

LOOKS = {
    "cosine": Look(BLUE, "solid", "circle"),
    "one_cycle": Look(ORANGE, "solid", "circle"),
    "wsd": Look(GREEN, "solid", "circle"),
    "linear": Look(RED, "solid", "circle"),
    "step": Look(PINK, "solid", "circle"),
    "plateau": Look(SKY, "solid", "circle"),
    "constant": Look(GREY, "solid", "circle"),
    "cosine_restarts": Look(BLUE, "dash", "diamond"),
    "cyclic": Look(ORANGE, "dash", "diamond"),
    "polynomial": Look(GREEN, "dash", "diamond"),
    "exponential": Look(RED, "dash", "diamond"),
    "multistep": Look(PINK, "dash", "diamond"),
    "greedy": Look(SKY, "dash", "diamond"),
    "inverse_time": Look(GREY, "dash", "diamond"),
    "tanh": Look(BLUE, "dot", "square"),
    "rex": Look(ORANGE, "dot", "square"),
    "spline": Look(GREEN, "dot", "square"),
    "inverse_sqrt": Look(RED, "dot", "square"),
    "sequence": Look(PINK, "dot", "square"),
    "custom": Look(SKY, "dot", "square"),
}

# How trials ended, in shades of grey: colour is the families'. In bars and in the report's style.
ENDS_LOOK: dict[str, dict[str, Any]] = {
    "complete": {"color": "rgba(128,128,128,1)"},
    "plateaued": {"color": "rgba(128,128,128,.6)"},
    "pruned": {"color": "rgba(128,128,128,.25)"},
    "diverged": {"color": "rgba(128,128,128,.08)", "pattern": {"shape": "x", "fgcolor": GREY}},
    "failed": {"color": "rgba(128,128,128,.08)", "pattern": {"shape": "/", "fgcolor": GREY}},
}

STRANGER = Look(GREY, "dot", "square")


def look(family: str) -> Look:
    """The look of a family; one shared grey look for names that the table does not hold.

    Example:
        >>> look("cosine").dash
        'solid'
    """
    return LOOKS.get(family, STRANGER)
