"""Tables and pictures of results. Matplotlib is imported when the first figure is drawn."""

from lightning_advreg.reporting.bars import per_class_figure
from lightning_advreg.reporting.curves import accuracy_curve_figure
from lightning_advreg.reporting.figures import adversarial_examples_figure, save_figure
from lightning_advreg.reporting.images import image_grid, save_image, to_array
from lightning_advreg.reporting.tables import markdown_table, results_table

__all__ = [
    "accuracy_curve_figure",
    "adversarial_examples_figure",
    "image_grid",
    "markdown_table",
    "per_class_figure",
    "results_table",
    "save_figure",
    "save_image",
    "to_array",
]
