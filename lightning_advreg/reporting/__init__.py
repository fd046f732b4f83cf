"""Tables and pictures of results. Matplotlib is imported when the first figure is drawn."""

from lightning_advreg.reporting.figures import accuracy_curve_figure, adversarial_examples_figure, save_figure
from lightning_advreg.reporting.images import image_grid, save_image, to_array
from lightning_advreg.reporting.tables import markdown_table, results_table, wilson_interval

__all__ = [
    "accuracy_curve_figure",
    "adversarial_examples_figure",
    "image_grid",
    "markdown_table",
    "results_table",
    "save_figure",
    "save_image",
    "to_array",
    "wilson_interval",
]
