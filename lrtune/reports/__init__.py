"""Reports: the HTML page, figures, the dashboard's note, notebooks, comparisons of runs."""
