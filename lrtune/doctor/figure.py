"""The rates that a run used, as a figure."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from lrtune.doctor.case import Case
from lrtune.results.canvas import canvas, rounded, safe, thin
from lrtune.results.palette import GREY, LOOKS
from lrtune.results.rates import rate_axis


def figure(cases: Sequence[Case]) -> go.Figure:
    """The rates of each case, and under them what fits them."""
    drawn = canvas()
    looks = list(LOOKS.values())
    shown = [np.empty(0)]
    for number, case in enumerate(cases):
        rates = np.where(np.isfinite(case.log.rates) & (case.log.rates > 0), case.log.rates, 0.0)
        at = thin(np.log10(np.maximum(rates, max(case.top, 1e-30) * 1e-6)), 1000)
        drawn.add_scatter(
            x=case.log.at[at].tolist(),
            y=rounded(rates[at]),
            mode="lines",
            line={"color": looks[number % 7].colour},
            name=safe(case.log.name),
            hovertemplate="update %{x}: %{y:.4g}",
        )
        if case.known and not case.by_step:
            drawn.add_scatter(
                x=case.log.at[at].tolist(),
                y=rounded(case.known.rates[at]),
                mode="lines",
                line={"color": GREY, "dash": "dot"},
                name=f"fit: {case.known.family}",
                hovertemplate="update %{x}: %{y:.4g}",
            )
        shown.append(rates)
    drawn.update_xaxes(title_text="updates")
    rate_axis(drawn, np.concatenate(shown))
    return drawn.update_layout(height=440, showlegend=True)
