"""Addresses of registered versions: `models:/NAME@ALIAS` and `models:/NAME/VERSION`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from merge_core.errors import MergeflowError, did_you_mean
from merge_core.findings import some
from tasks.registry.absent import none_if_absent
from tasks.registry.client import TAG, Registry, open_registry
from tasks.registry.models import find_logged_model
from tasks.registry.pages import every

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Place:
    """Where the checkpoint of a version is."""

    digest: str
    path: str | None
    revision: str | None
    address: str
    """`models:/NAME/VERSION`, also where an alias led to it."""


def is_address(text: str) -> bool:
    """Whether a text is written as the address of a registered version."""
    return _ADDRESS.fullmatch(text) is not None


def find_model(registry: Registry, name: str, where: str | None = None) -> RegisteredModel:
    """A registered model.

    Args:
        where: the text that the user gave, for the message; by default the name.

    Raises:
        MergeflowError: there is none of this name.
    """
    found = none_if_absent(registry.client.get_registered_model, name)
    if found is not None:
        return found
    known = [model.name for model in every(registry.client.search_registered_models)]
    raise MergeflowError(
        f"no model '{name}' is registered",
        where=f"{where or name} at {registry.address}",
        mend=did_you_mean(name, known) if known else "run a pipeline that registers one",
    )


def find_version(registry: Registry, model_uri: str) -> ModelVersion:
    """The version that an address names.

    Raises:
        MergeflowError: it is no such address, or no such model, alias or version is there (the
            message names those that are).
    """
    address = _ADDRESS.fullmatch(model_uri)
    if address is None:
        raise MergeflowError(
            "this is not the address of a registered version",
            where=model_uri,
            mend="write models:/NAME@champion or models:/NAME/3",
        )
    model = find_model(registry, address["name"], model_uri)
    if address["alias"] is None:
        return numbered_version(registry, model.name, address["version"])
    aliases = {alias: str(held) for alias, held in model.aliases.items()}
    if address["alias"] not in aliases:
        held_now = [f"@{alias} (version {held})" for alias, held in aliases.items()]
        raise MergeflowError(
            f"no version of '{model.name}' has the alias '{address['alias']}'",
            where=model_uri,
            mend=f"aliases here: {', '.join(held_now) or 'none yet'}",
        )
    return registry.client.get_model_version(model.name, aliases[address["alias"]])


def numbered_version(registry: Registry, name: str, version: str) -> ModelVersion:
    """A version of a model that is registered.

    Raises:
        MergeflowError: it has none of this number; the message names those that it has.
    """
    found = none_if_absent(
        registry.client.get_model_version, name, version, or_said=("INVALID_PARAMETER_VALUE",)
    )
    if found is not None:
        return found
    there = every(registry.client.search_model_versions, f"name = '{name}'")
    numbers = [str(each) for each in sorted(int(each.version) for each in there)]
    raise MergeflowError(
        f"'{name}' has no version {version}",
        where=f"models:/{name}/{version}",
        mend=f"versions here: {some(numbers, 20) if numbers else 'none yet'}",
    )


def digest_of_version(version: ModelVersion) -> str:
    """The digest of the checkpoint that a version is.

    Raises:
        MergeflowError: mergeflow did not register it.
    """
    digest = version.tags.get(TAG + "digest")
    if not digest:
        raise MergeflowError(
            "this version was not registered by mergeflow, so its ancestry is not known",
            where=f"models:/{version.name}/{version.version}",
            mend="ask by its files instead: `mergeflow lineage --contains DIR`; it was made from"
            f" {version.source}",
        )
    return str(digest)


def place_of_version(model_uri: str, tracking_uri: str) -> Place:
    """The checkpoint of a registered version, without its ancestry.

    Raises:
        MergeflowError: no such model, alias or version, or one that mergeflow did not register.
    """
    with open_registry(tracking_uri) as registry:
        version = find_version(registry, model_uri)
        digest = digest_of_version(version)
        model = find_logged_model(registry, digest)
        tags = dict(model.tags) if model else {}
    address = f"models:/{version.name}/{version.version}"
    return Place(digest, tags.get(TAG + "path"), tags.get(TAG + "revision"), address)
