"""A schedule for Lightning: `configure_optimizers`, and a callback that checks it in the run."""

from textwrap import indent

from lrtune.export.context import ExportContext, FoundOptimizer, head
from lrtune.export.torch import torch_code, torch_optimizer

HOW = """\
Give your LightningModule this configure_optimizers, and
Trainer(..., callbacks=[{callbacks}])
For {total} updates of the optimizer: with accumulate_grad_batches=k one update is k batches."""

CONFIGURE = '''

def configure_optimizers(self):
{optimizer}
    scheduler = make_scheduler(optimizer)  # sets the learning rate
    return {{
        "optimizer": optimizer,
        "lr_scheduler": {{
            "scheduler": scheduler,
            "interval": "{interval}",
            "frequency": 1,{more}
        }},
    }}


class CheckSchedule(Callback):
    """Says once if the trainer does not step the scheduler as it was made for."""

    def on_train_start(self, trainer, pl_module):
        for config in trainer.lr_scheduler_configs:
            if (config.interval, config.frequency) != ("{interval}", 1):
                rank_zero_warn(
                    f"the scheduler is stepped every {{config.frequency}} {{config.interval}}, but "
                    'was made for every 1 {interval}: return {{"scheduler": ..., "interval": '
                    '"{interval}", "frequency": 1}} from configure_optimizers'
                )
        total = trainer.estimated_stepping_batches
        if total not in ({total}, -1, float("inf")):  # -1, inf: not known
            rank_zero_warn(
                f"the schedule was made for {total} updates, this run has {{total}}: write it "
                f"again with lrtune export --total {{total}}"
            )
'''

# Further lines of the scheduler's dictionary.
MONITORED = '\n            "monitor": "val_loss",  # of one validation an epoch'
FED = '\n            "reduce_on_plateau": False,  # FeedSchedule does that'

FEED = '''

class FeedSchedule(Callback):
    """Gives the scheduler the loss of every validation of fit."""

    def on_validation_end(self, trainer, pl_module):
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            loss = trainer.callback_metrics["val_loss"]
            trainer.lr_scheduler_configs[0].scheduler.step(float(loss))
'''

PLAIN_STEP = """

def lr_scheduler_step(self, scheduler, metric):
    # Also a method of your LightningModule: torch has no class of this family.
    scheduler.step()
"""


UNKNOWN = "optimizer = torch.optim.AdamW(self.parameters())  # or the one that you tuned it with"
GROUPS = """\
parameters = [p for p in self.parameters() if p.requires_grad]
matrices = [p for p in parameters if p.dim() > 1]
others = [p for p in parameters if p.dim() <= 1]  # norms and biases: without weight decay
groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
"""


def lightning(ctx: ExportContext) -> str:
    """Source that defines `make_scheduler`, `configure_optimizers` and `CheckSchedule`."""
    schedule, total = ctx.schedule, ctx.total
    # Lightning itself gives a metric to ReduceLROnPlateau alone, and then never steps a warmup.
    monitored = not ctx.stepped
    fed = schedule.closed_loop and ctx.stepped
    callbacks = "CheckSchedule(), FeedSchedule()" if fed else "CheckSchedule()"
    imports = (
        "import torch\nfrom lightning.pytorch import Callback\n"
        "from lightning.pytorch.utilities import rank_zero_warn\n"
    )
    more = MONITORED if monitored else FED if fed else ""
    return (
        head(ctx, HOW.format(total=total, callbacks=callbacks), "lightning")
        + "\n"
        + imports
        + torch_code(ctx)
        + CONFIGURE.format(
            optimizer=indent(_optimizer(ctx.optimizer), "    "),
            more=more,
            total=total,
            interval="epoch" if monitored else "step",
        )
        + (FEED if fed else "")
        + (PLAIN_STEP if ctx.family == "greedy" else "")
    )


def _optimizer(found: FoundOptimizer | None) -> str:
    if found is None:
        return UNKNOWN
    groups = GROUPS if found.of_matrices else found.note
    parameters = "groups" if found.of_matrices else "self.parameters()"
    return f"{groups}optimizer = {torch_optimizer(found, parameters)}"
