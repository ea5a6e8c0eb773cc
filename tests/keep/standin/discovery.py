"""The discovery document, from which the Arvados SDK makes its methods."""

import re
from typing import Any

_LISTING = "filters order select limit offset count distinct include_trash include_old_versions"
_KINDS = {
    "filters": "array",
    "order": "array",
    "select": "array",
    "limit": "integer",
    "offset": "integer",
    "replace_files": "object",
    "replace_segments": "object",
    "distinct": "boolean",
    "include_trash": "boolean",
    "recursive": "boolean",
    "include_old_versions": "boolean",
    "ensure_unique_name": "boolean",
    "exclude_home_project": "boolean",
}
_MODELS = {
    "collections": "Collection",
    "groups": "Group",
    "users": "User",
    "links": "Link",
    "keep_services": "KeepService",
    "logs": "Log",
}


def discovery_document(base: str, cluster: str, ttl: int, replication: int, most_items: int) -> dict[str, Any]:
    """The document of an API server at `base`."""
    root = f"{base}arvados/v1/"
    return {
        "kind": "discovery#restDescription",
        "discoveryVersion": "v1",
        "id": "arvados:v1",
        "name": "arvados",
        "version": "v1",
        "revision": "20250402",
        "title": "stand-in",
        "description": "",
        "protocol": "rest",
        "uuidPrefix": cluster,
        "rootUrl": base,
        "baseUrl": root,
        "basePath": "/arvados/v1/",
        "servicePath": "arvados/v1/",
        "batchPath": "batch",
        "defaultCollectionReplication": replication,
        "blobSignatureTtl": ttl,
        "defaultTrashLifetime": 1209600,
        "maxRequestSize": 134217728,
        "maxItemsPerResponse": most_items,
        "source_version": "standin",
        "packageVersion": "standin",
        "parameters": {"alt": {"type": "string", "default": "json", "enum": ["json"], "location": "query"}},
        "auth": {"oauth2": {"scopes": {}}},
        "resources": _resources(),
        "schemas": _schemas(),
    }


def _resources() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for resource, model in _MODELS.items():
        one = f"{resource}/{{uuid}}"
        creating = "select ensure_unique_name cluster_id replace_files replace_segments"
        found[resource] = {
            "methods": {
                "get": _method(resource, "get", model, "GET", one, "select include_trash"),
                "list": _method(resource, "list", f"{model}List", "GET", resource, _LISTING),
                "create": _method(resource, "create", model, "POST", resource, creating, body=model),
                "update": _method(resource, "update", model, "PUT", one, creating, body=model),
                "delete": _method(resource, "delete", model, "DELETE", one),
            }
        }
    _add_others(found)
    return found


def _add_others(found: dict[str, Any]) -> None:
    groups = found["groups"]["methods"]
    contents = f"{_LISTING} uuid recursive include exclude_home_project"
    groups["contents"] = _method("groups", "contents", "Group", "GET", "groups/contents", contents)
    groups["shared"] = _method("groups", "shared", "Group", "GET", "groups/shared", f"{_LISTING} include")
    found["users"]["methods"]["current"] = _method("users", "current", "User", "GET", "users/current")
    accessible = _method("keep_services", "accessible", "KeepService", "GET", "keep_services/accessible")
    found["keep_services"]["methods"]["accessible"] = accessible
    found["configs"] = {"methods": {"get": _method("configs", "get", "Config", "GET", "config")}}
    found["vocabularies"] = {"methods": {"get": _method("vocabularies", "get", "Vocabulary", "GET", "vocabulary")}}


def _method(
    resource: str, name: str, model: str, verb: str, path: str, query: str = "", *, body: str = ""
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        each: {"type": _KINDS.get(each, "string"), "required": False, "location": "query"} for each in query.split()
    }
    method: dict[str, Any] = {
        "id": f"arvados.{resource}.{name}",
        "path": path,
        "httpMethod": verb,
        "description": "",
        "parameters": parameters,
        "response": {"$ref": model},
        "scopes": [],
    }
    for each in re.findall(r"\{(\w+)\}", path):
        parameters[each] = {"type": "string", "required": True, "location": "path"}
        method["parameterOrder"] = [each]
    if body:
        method["request"] = {"required": True, "properties": {body.lower(): {"$ref": body}}}
    return method


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for model in [*_MODELS.values(), "Config", "Vocabulary"]:
        items = {"items": {"type": "array", "items": {"$ref": model}}}
        found[model] = {"id": model, "type": "object", "properties": {}}
        found[f"{model}List"] = {"id": f"{model}List", "type": "object", "properties": items}
    return found
