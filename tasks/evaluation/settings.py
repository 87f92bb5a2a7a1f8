"""How lm-eval runs a suite: the section `settings` of its file."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)


class Generation(BaseModel):
    """How answers are generated, in place of what each task says."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float | None = Field(default=None, ge=0.0, le=100.0)
    """0: the likeliest token each time."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Only the likeliest tokens with this much probability together."""
    top_k: int | None = Field(default=None, ge=1)
    """Only this many of the likeliest tokens."""
    max_gen_toks: int | None = Field(default=None, ge=1)
    """Longest answer in tokens."""
    until: tuple[str, ...] | None = None
    """Texts that end an answer."""

    @property
    def samples(self) -> bool:
        """Whether two answers to the same prompt may differ."""
        return bool(self.temperature)

    def for_lm_eval(self) -> dict[str, Any]:
        """As lm-eval's `generation_kwargs`."""
        values = self.model_dump(mode="json", exclude_none=True)
        return values | ({"do_sample": self.samples} if self.temperature is not None else {})


class SuiteSettings(BaseModel):
    """How lm-eval runs; all of it is part of the suite's digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_size: int | Literal["auto"] = 8
    """Sequences in one forward pass: at most, where memory does not suffice. `auto`: as many as
    memory suffices for, up to 64 on a GPU and 32 on the CPU."""
    num_fewshot: int | None = Field(default=None, ge=0, le=100)
    """Solved examples before each question; null leaves it to each task."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first documents of each task; null takes all."""
    max_length: int | None = Field(default=None, ge=2)
    """Context in tokens; null takes the model's own."""
    seed: int = Field(default=1234, ge=0, lt=2**32)
    """Seeds python, numpy, torch and the choice of few-shot examples."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the weights are loaded in; `auto` is the type they are stored in."""
    apply_chat_template: bool = False
    """Wrap prompts in the tokenizer's chat template (for instruction-tuned models)."""
    generation: Generation | None = None
    """How answers are generated; null leaves it to each task."""
    repeats: int = Field(default=1, ge=1, le=64)
    """How often each document is answered; its score is the mean. More than 1 needs a
    `generation.temperature` above 0."""
    system_instruction: str | None = Field(default=None, min_length=1)
    """What stands before each prompt; with a chat template, as its system message."""
    fewshot_as_multiturn: bool | None = None
    """Whether solved examples are turns of the conversation; null: where a chat template is
    applied."""
    run_code: tuple[str, ...] = ()
    """Tasks of the suite that may execute what the model writes, on this machine."""
    device_map: str | None = Field(default=None, min_length=1)
    """How a model is spread over several GPUs, as transformers takes it: auto, balanced. Null: one
    device."""

    backend: Literal["transformers", "vllm", "server"] = "transformers"
    """What computes: transformers in the evaluation process, vLLM there, or a server."""
    backend_options: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Further arguments for lm-eval's vLLM model: tensor_parallel_size, gpu_memory_utilization."""
    server: tuple[str, ...] = ()
    """For `backend: server`: the command that serves a checkpoint on this machine as OpenAI's
    completions, an argument each; `{checkpoint}` and `{port}` are replaced."""

    @property
    def turns(self) -> bool:
        """Whether solved examples are turns."""
        if self.fewshot_as_multiturn is None:
            return self.apply_chat_template
        return self.fewshot_as_multiturn

    @field_validator("batch_size", mode="before")
    @classmethod
    def _a_number_or_auto(cls, value: Any) -> Any:
        is_number = isinstance(value, int) and not isinstance(value, bool)
        if value != "auto" and not (is_number and 1 <= value <= 4096):
            raise ValueError("this must be a whole number from 1 to 4096, or auto")
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.repeats > 1 and not (self.generation and self.generation.samples):
            raise ValueError(
                "repeats is more than 1, and every answer would be the same; write a"
                " generation.temperature above 0, or leave repeats out"
            )
        self._fit_the_backend()
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise ValueError(
                "fewshot_as_multiturn makes turns of a conversation; write apply_chat_template:"
                " true too, or leave it out"
            )
        return self

    def _fit_the_backend(self) -> None:
        is_served = self.backend == "server"
        if is_served != bool(self.server):
            raise ValueError(
                "backend: server and the server's command belong together; write both or neither"
            )
        if is_served and not all(
            any(name in argument for argument in self.server[1:])
            for name in ("{checkpoint}", "{port}")
        ):
            raise ValueError(
                "server is a program and its arguments, with {checkpoint} and {port} among them,"
                " such as [vllm, serve, '{checkpoint}', --host, 127.0.0.1, --port, '{port}']"
            )
        if self.backend_options and self.backend != "vllm":
            raise ValueError(
                "backend_options are vLLM's; write backend: vllm too, or leave them out"
            )
        if self.backend == "transformers":
            return
        if is_served and self.dtype != "auto":
            raise ValueError("dtype is for the server's command to say; leave it out")
        for name in ("device_map", "repeats"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is for backend: transformers; leave it out")

    @model_serializer(mode="wrap")
    def _later_keys_where_they_are_written(
        self, handler: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        """Suites that write none keep their digest."""
        values: dict[str, Any] = handler(self)
        standard = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
        }
        return {
            name: value
            for name, value in values.items()
            if name not in _LATER or getattr(self, name) != standard[name]
        }


_LATER = (
    "generation",
    "repeats",
    "system_instruction",
    "fewshot_as_multiturn",
    "run_code",
    "device_map",
    "backend",
    "backend_options",
    "server",
)
