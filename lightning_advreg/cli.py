"""The command line: ``lightning-advreg fit|validate|test|predict --config ...`` and ``lightning-advreg demo``."""

import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

# imported so that configs can name their classes without a path
import lightning_advreg.callbacks
import lightning_advreg.data
import lightning_advreg.loggers
import lightning_advreg.modules
import lightning_advreg.networks  # noqa: F401
from lightning_advreg import __version__
from lightning_advreg.callbacks import Continuation, ExactResume, FiniteTraining, PredictionFile, SampleFile
from lightning_advreg.config_files import find_configs
from lightning_advreg.environment import record_end, record_start
from lightning_advreg.files import RefusedFile, read_checkpoint, write_json
from lightning_advreg.files.checkpoint_io import with_safe_checkpoints
from lightning_advreg.files.checkpoints import ADD_SAFE, batches_trained, names_a_file
from lightning_advreg.files.configs import check_configs
from lightning_advreg.files.outlasting import outlasting
from lightning_advreg.files.packages import check_class_paths, restrict_imports, take_packages
from lightning_advreg.loggers import ResumableWandbLogger
from lightning_advreg.metrics_file import RunLogger
from lightning_advreg.modules import Classifier
from lightning_advreg.parsing import explain_errors
from lightning_advreg.refusals import one_line_errors
from lightning_advreg.resuming import resumed, to_continue
from lightning_advreg.run_folder import belongs_to, set_aside, take
from lightning_advreg.saved_config import SaveConfig


class RunFolderCLI(LightningCLI):
    """LightningCLI with one folder per run, ``trainer.default_root_dir``, that nothing overwrites.

    ``fit`` leaves ``config.yaml``, ``environment.json``, ``metrics.csv``, ``checkpoints/`` and ``images/`` there;
    ``test`` and ``validate`` leave theirs, with ``results.json``, in a folder of their name inside it, and so does
    ``predict``, with the samples of a GAN. Loggers of the configuration are added.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        # the constructor is the whole run, during which the folder is held
        self._batches: int | None = None
        with ExitStack() as self._held:
            super().__init__(*args, **kwargs)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:  # noqa: ANN401
        """Give a parser that says in one line what is wrong."""
        parser = super().init_parser(**kwargs)
        explain_errors(parser)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Remember the command line."""
        self._command = [str(argument) for argument in args] if isinstance(args, list) else sys.argv[1:]
        super().parse_arguments(parser, args)

    def before_instantiate_classes(self) -> None:
        """Load checkpoints as tensors and plain values alone."""
        settings = None if self.subcommand is None else self.config[self.subcommand]
        if settings is not None and "weights_only" in settings:
            if settings["weights_only"] is False:
                self.parser.error(f"--weights_only false would run what a checkpoint says; {ADD_SAFE}.")
            settings["weights_only"] = True

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401
        """Put the file logger first, so that it decides where everything lies."""
        settings = self._get(self.config_init, "trainer", default={})
        given, root = settings.get("logger"), settings.get("default_root_dir") or "runs"
        subcommand = str(self.subcommand)
        if not settings.get("fast_dev_run"):
            take(Path(root) / ("" if subcommand == "fit" else subcommand), self._held)
        if given is not False:
            if subcommand == "fit" and not self.config[subcommand].get("ckpt_path"):
                # a new run beside an old last.ckpt would call its own last-v1.ckpt, and `test` would take the old one
                set_aside(Path(root) / "checkpoints")
            kwargs["logger"] = [RunLogger(Path(root), subcommand), *_loggers(given)]
            self._attach(_loggers(given), Path(root))
        kwargs["plugins"] = with_safe_checkpoints(settings)
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit":
            self._watch_over(trainer)
        return trainer

    def before_fit(self) -> None:
        """Write ``environment.json``, and see to it that a run that is killed can go on."""
        self._record_start()
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        saves = self._get(self.config_init, "trainer", default={}).get("enable_checkpointing") is not False
        if saves and not any(isinstance(callback, ExactResume) for callback in callbacks):
            # where it cannot work and nobody has asked for it, the run goes without
            with suppress(ValueError):
                exact_resume = ExactResume()
                exact_resume.check(self.trainer)
                callbacks.append(exact_resume)

    def before_test(self) -> None:
        """Write ``environment.json``."""
        self._record_start()

    def before_validate(self) -> None:
        """Write ``environment.json``."""
        self._record_start()

    def before_predict(self) -> None:
        """Write ``environment.json``, and see to it that samples or predictions are written."""
        self._record_start()
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        generates = isinstance(getattr(self.model, "generator", None), torch.nn.Module)
        writer = SampleFile if generates else PredictionFile
        classifies = isinstance(self.model, Classifier)
        if (generates or classifies) and not any(isinstance(callback, writer) for callback in callbacks):
            callbacks.append(writer())

    def after_fit(self) -> None:
        """Note the end, and say where the results are."""
        self._record_end()
        self._say_where()

    def after_predict(self) -> None:
        """Note the end, and say where everything is."""
        self._record_end()
        self._say_where()

    def after_test(self) -> None:
        """Write ``results.json``, note the end, and say where everything is."""
        self._write_results()
        self._record_end()
        self._say_where()

    def after_validate(self) -> None:
        """Write ``results.json``, note the end, and say where everything is."""
        self.after_test()

    def _parse_ckpt_path(self) -> None:
        subcommand = self.config.get("subcommand")
        settings = self.config.get(subcommand) if subcommand else None
        if settings and subcommand == "fit" and settings.get("ckpt_path") == "resume":
            settings["ckpt_path"] = to_continue(settings["trainer"])
        path = settings.get("ckpt_path") if settings else None
        if settings and path and names_a_file(path):
            try:
                stored = read_checkpoint(path, mmap=True)
                check_class_paths(stored.get("hyper_parameters", {}), str(path))
            except (RefusedFile, OSError) as error:
                self.parser.error(f"--ckpt_path: {error}")
            self._batches = batches_trained(stored)
            saved_by = stored.get("hyper_parameters", {}).get("_class_path", "")
            asked_for = str((settings.get("model") or {}).get("class_path", saved_by))
            if saved_by and saved_by.rpartition(".")[2] != asked_for.rpartition(".")[2]:
                self.parser.error(
                    f"--ckpt_path {path} was saved by {saved_by}, but the model to {subcommand} is {asked_for}; give "
                    "the configuration that the checkpoint was trained with, or another checkpoint."
                )
        super()._parse_ckpt_path()

    def _attach(self, loggers: list[Logger], root: Path) -> None:
        checkpoint = self.config[str(self.subcommand)].get("ckpt_path")
        continues = checkpoint is not None and belongs_to(checkpoint, root)
        for logger in loggers:
            if isinstance(logger, ResumableWandbLogger):
                step = None if self.subcommand == "fit" else self._batches
                logger.attach(root, resume="allow" if continues else "never", step=step)
                self._held.push(lambda kind, *_, logger=logger: logger.close(failed=kind is not None))

    def _watch_over(self, trainer: Trainer) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        added: list[Callback] = [Continuation(self._command)]
        if not any(isinstance(callback, FiniteTraining) for callback in callbacks):
            added.append(FiniteTraining())
        # before checkpoints are written, after monitors have acted
        place = next((i for i, callback in enumerate(callbacks) if isinstance(callback, Checkpoint)), len(callbacks))
        callbacks[place:place] = added

    @property
    def _folder(self) -> Path | None:
        """Where to write, in the main process; None in others. All must ask, since ``log_dir`` asks the main one."""
        folder = self.trainer.log_dir
        return None if folder is None or not self.trainer.is_global_zero else Path(folder)

    def _record_start(self) -> None:
        folder = self._folder
        if folder is None or self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        settings = self.config[str(self.subcommand)]
        seed, checkpoint = settings.get("seed_everything"), settings.get("ckpt_path")
        record_start(
            folder,
            command=self._command,
            device=self.trainer.strategy.root_device,
            processes=self.trainer.world_size,
            seed=seed if isinstance(seed, int) else None,
            # a test starts anew each time
            checkpoint=str(checkpoint) if checkpoint and self.subcommand == "fit" else None,
        )

    def _record_end(self) -> None:
        folder = self._folder
        if folder is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            record_end(folder)

    def _write_results(self) -> None:
        folder = self._folder
        if folder is None:
            return
        metrics = {name: float(value) for name, value in sorted(self.trainer.callback_metrics.items())}
        checkpoint = self.trainer.ckpt_path
        results = {"metrics": metrics, "checkpoint": str(checkpoint) if checkpoint else None}
        with outlasting(folder / "results.json"):
            write_json(folder / "results.json", results)

    def _say_where(self) -> None:
        folder = self._folder
        if folder is not None:
            sys.stdout.write(f"Everything is in {folder}\n")


CLI = TypeVar("CLI", bound=RunFolderCLI)


def main(args: ArgsType = None) -> RunFolderCLI | None:
    """Run the command line.

    Args:
        args: The arguments, without the program's name; None takes those of the process.

    Returns:
        The object that holds trainer, model and data of the run; None for commands without any.
    """
    arguments = sys.argv[1:] if args is None else args
    if isinstance(arguments, list):
        if arguments[:1] == ["demo"]:
            from lightning_advreg.demo import main as demo

            demo(arguments[1:])
            return None
        try:
            arguments, packages = take_packages(arguments)
            restrict_imports(packages)
            arguments = check_configs(find_configs(resumed(arguments)))
        except (ValueError, OSError) as error:
            sys.exit(f"lightning-advreg: error: {error}")
    if args is None:
        # LightningCLI reads them there itself, and warns where arguments come from both sides
        sys.argv[1:] = arguments
    return command_line(RunFolderCLI, None if args is None else arguments)


def command_line(kind: type[CLI], args: ArgsType, *, exit_on_error: bool = True) -> CLI:
    """Run a command line with the settings of this library.

    Args:
        kind: What to do with the arguments.
        args: The arguments, configurations given by their paths; None takes those of the process.
        exit_on_error: Leave the process at arguments that are wrong; otherwise the parser raises its error.

    Returns:
        The object that has done it.
    """
    return kind(
        LightningModule,
        LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_kwargs={"prog": "lightning-advreg", "version": __version__, "exit_on_error": exit_on_error},
        args=args,
    )


def console() -> None:
    """Run the command line as a program, whose exit status is 0 unless something fails."""
    with one_line_errors():
        # what `main` gives would be an exit status of 1 to the console script
        main()


def _loggers(given: object) -> list[Logger]:
    if isinstance(given, Logger):
        return [given]
    return list(given) if isinstance(given, list | tuple) else []
