"""Tables and pictures of results. Matplotlib is imported when the first figure is drawn."""

from lightning_advreg.reporting.bars import per_class_figure
from lightning_advreg.reporting.curves import accuracy_curve_figure
from lightning_advreg.reporting.figures import adversarial_examples_figure, save_figure
from lightning_advreg.reporting.images import image_grid, save_image, to_array
from lightning_advreg.reporting.rows import generalisation_gap_figure, main_effects_figure
from lightning_advreg.reporting.scaling import scaling_figure
from lightning_advreg.reporting.tables import markdown_table, results_table
from lightning_advreg.reporting.variants import interaction_figure, learning_curves_figure, tradeoff_figure

__all__ = [
    "accuracy_curve_figure",
    "adversarial_examples_figure",
    "generalisation_gap_figure",
    "image_grid",
    "interaction_figure",
    "learning_curves_figure",
    "main_effects_figure",
    "markdown_table",
    "per_class_figure",
    "results_table",
    "save_figure",
    "save_image",
    "scaling_figure",
    "to_array",
    "tradeoff_figure",
]
