"""The configuration of a run, beside its results and in its loggers."""

import json

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn

from lightning_advreg.loggers import without_paths


class SaveConfig(SaveConfigCallback):
    """Save the whole configuration beside the results, and send it to loggers that show hyper-parameters."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Send the configuration, without the paths of this machine, to every logger but the one that writes files."""
        config = without_paths(json.loads(json.dumps(self.config.as_dict(), default=str)))
        # a test may continue the run of W&B that the training has described
        name = "config" if stage == "fit" else f"{TrainerFn(stage).value}_config"
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams({name: config})
