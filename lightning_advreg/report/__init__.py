"""One HTML file that shows any set of runs, and needs no network: ``lightning-advreg report RUN...``."""

from lightning_advreg.report.ablations import AblationRecord, read_ablation
from lightning_advreg.report.page import report_page
from lightning_advreg.report.runs import RunRecord, read_run

__all__ = ["AblationRecord", "RunRecord", "read_ablation", "read_run", "report_page"]
