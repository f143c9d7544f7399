"""The JSON Schema (draft 2020-12) of every JSON document that vaeprobe writes."""

from __future__ import annotations

from vaeprobe.report import SCHEMA_VERSION, Json

NUMBER = {"type": "number"}
TEXT = {"type": "string"}
STATUS = {"enum": ["pass", "fail", "inconclusive", "undefined"]}
INTERVAL = {"type": ["array", "null"], "items": {"type": ["number", "null"]}, "minItems": 2, "maxItems": 2}
OF_ALL = {"enum": ["estimated", "at least", "at most", "open"]}
SHA256 = {"type": "string", "pattern": "^([0-9a-f]{64})?$"}
EXIT_CODE = {"enum": [0, 1, 2, 3, 4, 5, 6, 70]}


def _object(required: Json, **optional: object) -> Json:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


def document() -> Json:
    """Return the schema."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vaeprobe documents",
        "oneOf": [
            {"$ref": f"#/$defs/{name}"}
            for name in ("result", "failure", "inspections", "check", "model_line", "run_line")
        ],
        "$defs": {
            "metric": _object(
                {
                    "value": {"type": ["number", "boolean", "string", "array", "object", "null"]},
                    "ci": INTERVAL,
                    "n": {"type": ["integer", "null"]},
                    "unit": TEXT,
                },
                level=NUMBER,
                method=TEXT,
                reason=TEXT,
                of_all=OF_ALL,
            )
            | {"if": {"properties": {"value": {"type": "null"}}}, "then": {"required": ["reason"]}},
            "artifact": {
                "anyOf": [
                    {"type": "null"},
                    _object(
                        {
                            "path": TEXT,
                            "sha256": SHA256,
                            "size": {"type": "integer"},
                            "format": TEXT,
                            "architecture": TEXT,
                            "maps": TEXT,
                            "details": {"type": "object"},
                        }
                    ),
                ]
            },
            "finding": _object(
                {
                    "code": TEXT,
                    "level": {"enum": ["error", "warning", "note"]},
                    "message": TEXT,
                    "hint": {"type": ["string", "null"]},
                }
            ),
            "limit": _object(
                {
                    "metric": TEXT,
                    "side": {"enum": ["max", "min"]},
                    "limit": NUMBER,
                    "status": STATUS,
                    "level": {"enum": ["error", "warning", "note"]},
                    "value": {},
                    "ci": INTERVAL,
                }
            ),
            "tool": _object({"name": {"const": "vaeprobe"}, "version": TEXT}),
            "error": _object({"code": TEXT, "message": TEXT, "hint": {"type": ["string", "null"]}}),
            "result": _object(
                {
                    **_head(),
                    "command": TEXT,
                    "artifact": {"$ref": "#/$defs/artifact"},
                    "settings": {"type": "object"},
                    "verdict": TEXT,
                    "summary": TEXT,
                    "metrics": {"type": "object", "additionalProperties": {"$ref": "#/$defs/metric"}},
                    "details": {"type": "object"},
                    "checks": {"type": "array", "items": {"$ref": "#/$defs/limit"}},
                    "findings": {"type": "array", "items": {"$ref": "#/$defs/finding"}},
                    "exit_code": EXIT_CODE,
                },
                verdict_of_all={"type": "array", "items": TEXT},
            ),
            "failure": _object(
                {**_head(), "error": {"$ref": "#/$defs/error"}, "exit_code": EXIT_CODE},
                model=TEXT,
            ),
            "inspections": _object(
                {
                    **_head(),
                    "command": {"const": "inspect"},
                    "models": {
                        "type": "array",
                        "items": {"anyOf": [{"$ref": "#/$defs/result"}, {"$ref": "#/$defs/failure"}]},
                    },
                    "exit_code": EXIT_CODE,
                }
            ),
            "rule": _object(
                {
                    "metric": TEXT,
                    "side": {"enum": ["max", "min", None]},
                    "verdicts": {"type": "array", "items": TEXT},
                    "limit": {"type": ["number", "null"]},
                    "floor": {"type": ["number", "null"]},
                    "regression": {"type": ["number", "null"], "minimum": 0},
                    "relative": {"type": "boolean"},
                    "level": {"enum": ["error", "warning"]},
                }
            ),
            "waiver": _object(
                {
                    "rule": TEXT,
                    "reason": TEXT,
                    "expires": {"type": "string", "format": "date"},
                    "models": TEXT,
                }
            ),
            "outcome": _object(
                {
                    "metric": TEXT,
                    "status": STATUS,
                    "rule": {"$ref": "#/$defs/rule"},
                    "bound": {"type": ["number", "null"]},
                    "value": {"type": ["number", "string", "null"]},
                    "ci": INTERVAL,
                    "n": {"type": ["integer", "null"]},
                    "reason": {"type": ["string", "null"]},
                    "part": {"type": ["string", "null"]},
                    "waived": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/waiver"}]},
                    "message": TEXT,
                },
                of_all=OF_ALL,
            ),
            "model": _object(_model()),
            "model_line": _object(
                {
                    "schema_version": {"const": SCHEMA_VERSION},
                    "kind": {"const": "model"},
                    **_model(),
                }
            ),
            "run_line": _object(
                {
                    **_head(),
                    "kind": {"const": "run"},
                    "models": {"type": "integer", "minimum": 0},
                    "exit_code": EXIT_CODE,
                }
            ),
            "check": _object(
                {
                    **_head(),
                    "command": {"const": "check"},
                    "policy": _object({"origin": TEXT, "sha256": SHA256}),
                    "baseline": {"type": ["string", "null"]},
                    "settings": {"type": "object"},
                    "models": {"type": "array", "items": {"$ref": "#/$defs/model"}},
                    "exit_code": EXIT_CODE,
                }
            ),
        },
    }


def _model() -> Json:
    return {
        "model": TEXT,
        "artifact": {"$ref": "#/$defs/artifact"},
        "outcomes": {"type": "array", "items": {"$ref": "#/$defs/outcome"}},
        "findings": {"type": "array", "items": {"$ref": "#/$defs/finding"}},
        "error": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/error"}]},
        "inconclusive": {"enum": ["error", "warning", "pass"]},
        "inputs_sha256": SHA256,
        "exit_code": EXIT_CODE,
    }


def _head() -> Json:
    return {
        "tool": {"$ref": "#/$defs/tool"},
        "torch": {"type": ["string", "null"]},
        "schema_version": {"const": SCHEMA_VERSION},
    }
