"""From raw figures to tables, plots and the marked sections of a page."""
