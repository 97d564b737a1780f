"""What a search found: tables, figures and one HTML report. Never imports torch."""
