"""Models of Hugging Face's transformers, from a folder: with its weights, or of its shape alone.

Nothing is downloaded, and no code of the folder is run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.errors import InputError, described, package

CONFIG = "config.json"
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
DECODER, CLASSIFIER = "AutoModelForCausalLM", "AutoModelForSequenceClassification"
FITTING = 0.5  # the share of the weights that a file holds, at the least


def is_folder(name: str) -> bool:
    """Whether a model's name is a folder's: a path, or one with a model in it, by whatever name."""
    is_path = "/" in name or (name != "" and (Path(name) / CONFIG).is_file())
    return is_path and Path(name).is_dir()


class FromFolder(nn.Module):
    """A transformers model as lrtune calls its own.

    Takes integer tokens (n, t) of any dtype; gives logits (n, t, vocabulary), or (n, outputs) where
    ``padding`` is a token.
    """

    def __init__(self, folder: str, head: str, padding: int | None, settings: Any) -> None:
        super().__init__()
        self.model = _made(folder, head, settings)[0]
        self.padding = padding

    def forward(self, tokens: Tensor) -> Tensor:
        """Integers (n, t) -> logits."""
        tokens = tokens.long()
        if self.padding is None:
            logits: Tensor = self.model(input_ids=tokens).logits
        else:
            there = tokens != self.padding
            logits = self.model(input_ids=tokens, attention_mask=there.long()).logits
        return logits


def folder_model(
    folder: str,
    context: int,  # tokens per sample
    outputs: int,  # classes, or 1; of a language model, tokens
    vocabulary: int,  # distinct tokens of the texts
    padding: int | None,  # the token that fills texts up; None for a language model
) -> Callable[[], nn.Module]:
    """A picklable function that makes the model of a folder, with its weights where it has some."""
    if not (Path(folder) / CONFIG).is_file():
        raise InputError(f"model {folder}: no {CONFIG} in it: model.save_pretrained writes one")
    head, settings = DECODER, dict[str, Any](use_cache=False)
    if padding is not None:
        head, settings = CLASSIFIER, settings | {"num_labels": outputs, "pad_token_id": padding}
    with quiet() as transformers, errors_of(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    for name, needed, way_out in (
        ("vocab_size", vocabulary, "its own --tokens"),
        ("max_position_embeddings", context, "--context {}"),
    ):
        if (most := getattr(config, name, None)) is not None and most < needed:
            way_out = way_out.format(most)
            raise InputError(
                f"model {folder}: {name}={most}, and the texts need {needed}: give {way_out}"
            )
    model, missing = _made(folder, head, settings)
    count = len(model.state_dict())
    if len(missing) > (1 - FITTING) * count:
        raise InputError(
            f"model {folder}: its file has no weights for {len(missing)} of {count}: "
            f"{', '.join(sorted(missing)[:5])}: they are of another model"
        )
    if padding is None:
        _check_causal(folder, model)
    return partial(FromFolder, folder, head, padding, settings)


def _made(folder: str, head: str, settings: Any) -> tuple[nn.Module, set[str]]:
    """The model, and the weights that its files lack, which are random; none without files."""
    with quiet() as transformers, errors_of(folder):
        auto = getattr(transformers, head)
        if not any(any(Path(folder).glob(name)) for name in WEIGHTS):
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, **settings
            )
            return auto.from_config(config), set()
        model, info = auto.from_pretrained(
            folder,
            local_files_only=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head of other classes
            output_loading_info=True,
            **settings,
        )
        return model, set(info["missing_keys"])


@torch.no_grad()
def _check_causal(folder: str, model: nn.Module) -> None:
    """Refuse a model whose outputs depend on later tokens: it would see what it is to tell."""
    tokens = torch.zeros(2, 4, dtype=torch.long)
    tokens[1, -1] = 1
    first, second = model.eval()(input_ids=tokens).logits[:, 0]
    if not torch.allclose(first, second):
        raise InputError(
            f"model {folder}: an encoder, which sees the tokens that a language model is to tell: "
            "give a decoder (GPT-2, say), or a table with --text and --target"
        )


@contextmanager
def errors_of(folder: str) -> Iterator[None]:
    """What transformers says of a folder, shortened."""
    try:
        yield
    except Exception as error:  # of many kinds, its packages' too
        said = described(error).partition(" Model type should be")[0]
        raise InputError(f"{folder}: cannot be read by transformers: {said[:200]}") from error


@contextmanager
def quiet() -> Iterator[Any]:
    """The package, without its progress bars and warnings."""
    transformers = package("transformers", install="'lrtune[transformers]'")
    log: Any = transformers.utils.logging
    before, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield transformers
    finally:
        log.set_verbosity(before)
        if bars:
            log.enable_progress_bar()
