"""Models of torchvision, timm and transformers, and our own small ones, by name: random weights, no downloads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ecograph.tools.errors import UserError, one_line
from ecograph.tools.inputs import Input

if TYPE_CHECKING:
    from torch import nn

#: How a named model is built, and which inputs fit it.
Entry = tuple[Callable[[], "nn.Module"], Callable[["nn.Module"], Sequence[Input]]]

BATCH = 8
TOKENS = (2, 128)


def torchvision_model(name: str) -> Entry:
    """Returns a model of torchvision.

    Raises:
        UserError: where there is none of this name, or no torchvision.
    """
    models: Any = _import("torchvision.models", "torchvision")
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    # Left alone, weights_backbone is downloaded even where weights are None.
    options = {key: None for key in inspect.signature(builder).parameters if key.startswith("weights")}

    def inputs(model: nn.Module) -> Sequence[Input]:
        family = builder.__module__
        if ".detection" in family:
            return ()  # takes lists of images and of boxes
        if ".optical_flow" in family:
            return (Input((2, 3, 128, 128)), Input((2, 3, 128, 128)))
        if ".video" in family:
            size = 224 if name.startswith(("mvit", "swin")) else 112
            return (Input((2, 3, 16, size, size)),)
        size = 299 if name == "inception_v3" else 224
        return (Input((BATCH, 3, size, size)),)

    return lambda: _built("torchvision", name, builder, **options), inputs


def timm_model(name: str) -> Entry:
    """Returns a model of timm.

    Raises:
        UserError: where there is none of this name, or no timm.
    """
    timm: Any = _import("timm", "timm")
    if not timm.is_model(name.partition(".")[0]):
        raise _unknown("timm", name, timm.list_models())

    def inputs(model: nn.Module) -> Sequence[Input]:
        config: Any = getattr(model, "pretrained_cfg", None) or {}
        return (Input((BATCH, *config.get("input_size", (3, 224, 224)))),)

    return lambda: _built("timm", name, timm.create_model, name, pretrained=False), inputs


def hf_model(name: str) -> Entry:
    """Returns a model of transformers: of a type such as ``bert``, or of an id that was downloaded before.

    Raises:
        UserError: where there is none of this name, or no transformers.
    """
    transformers: Any = _import("transformers", "transformers")
    transformers.logging.set_verbosity_error()
    types = transformers.CONFIG_MAPPING
    if name in types:
        config = _built("hf", name, types[name])
    else:
        try:
            config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError) as error:
            close = get_close_matches(name, list(types), 3)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise UserError(
                f"SPEC 'hf:{name}': neither a model type of transformers{hint} nor an id that is on this machine: "
                "nothing is downloaded"
            ) from error
    auto = _auto_class(transformers, config)
    return lambda: _built("hf", name, auto.from_config, config), _hf_inputs


def demo_model(name: str) -> Entry:
    """Returns a model that comes with ecograph: a ResNet for ``digits``, or ``gpt``, for ``text:stdlib``.

    Raises:
        UserError: where there is none of this name.
    """
    from ecograph.tools import demo_gpt
    from ecograph.tools import demo_model as resnets

    if name == "gpt":
        return demo_gpt.GPT, lambda model: (Input((BATCH, TOKENS[1]), "int64"),)
    if name not in resnets.MODELS:
        raise _unknown("demo", name, [*resnets.MODELS, "gpt"])
    return lambda: resnets.build(name), lambda model: (Input((BATCH, 1, 8, 8)),)


def _auto_class(transformers: Any, config: Any) -> Any:
    """Returns the class to build with: a language model where that is what the type is for."""
    from transformers.models.auto import modeling_auto as auto

    causal = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    # BERT and its kin can be made into causal models, and so can Whisper's decoder, but that is not what they are.
    if causal and config.model_type not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.is_encoder_decoder:
        return transformers.AutoModelForCausalLM
    return transformers.AutoModel


def _hf_inputs(model: Any) -> Sequence[Input]:
    """Returns inputs for a model of transformers, from what its configuration says."""
    config = model.config
    text, vision = getattr(config, "text_config", None), getattr(config, "vision_config", None)
    tokens = (TOKENS[0], min(TOKENS[1], getattr(text or config, "max_position_embeddings", None) or TOKENS[1]))
    ids = Input(tokens, "int64", "input_ids")
    main = getattr(model, "main_input_name", "input_ids")
    inputs = []
    if main == "input_features":  # of a spectrogram, as Whisper's
        frames = 2 * getattr(config, "max_source_positions", 1500)
        inputs.append(Input((TOKENS[0], getattr(config, "num_mel_bins", 80), frames), name=main))
    elif main == "input_values":  # of a sound wave: one second
        inputs.append(Input((TOKENS[0], 16000), name=main))
    elif main == "pixel_values":
        inputs.append(_pixels(vision or config))
    else:
        inputs.append(ids)
        if vision is not None:
            inputs.append(_pixels(vision))
    if getattr(config, "is_encoder_decoder", False):
        inputs.append(Input(tokens, "int64", "decoder_input_ids"))
    return inputs


def _pixels(config: Any) -> Input:
    size = getattr(config, "image_size", 224)
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return Input((TOKENS[0], getattr(config, "num_channels", 3), height, width), name="pixel_values")


#: What stands before the colon of a SPEC.
KINDS: dict[str, Callable[[str], Entry]] = {
    "torchvision": torchvision_model,
    "timm": timm_model,
    "hf": hf_model,
    "demo": demo_model,
}


def _import(module: str, package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        if (error.name or "").partition(".")[0] == package:
            raise UserError(f"{package} is not installed: pip install {package}") from error
        raise UserError(f"{package} cannot be imported: {one_line(error)}") from error


def _built(kind: str, name: str, builder: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        return builder(*args, **options)
    except Exception as error:
        raise UserError(
            f"SPEC '{kind}:{name}': cannot be built with its defaults: {type(error).__name__}: {one_line(error)}"
        ) from error


def _unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    close = get_close_matches(name, list(names), 3)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if kind == "demo":
        hint = f"; give one of {', '.join(names)}"
    return UserError(f"SPEC '{kind}:{name}': {kind} has no model {name!r}{hint}")
