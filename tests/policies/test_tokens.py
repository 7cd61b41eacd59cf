"""Files of tokens: what they say, and what is wrong with them."""

from __future__ import annotations

import pytest

from accede.errors import FileError
from accede.policies.tokens import parse_tokens

HEAD = "format: accede/v1\nkind: ApiTokens\n"
ONE, TWO = "a" * 64, "b" * 64


def test_names_roles_and_digests() -> None:
    first = f"- {{name: ci, role: operator, sha256: {ONE}}}\n"
    second = f'- {{name: "an: na", role: approver, groups: [model-risk, law], sha256: {TWO}}}\n'
    text = f"{HEAD}tokens:\n{first}{second}"
    found = parse_tokens(text, "t.yaml").tokens
    assert [(one.name, one.role, one.groups, one.sha256) for one in found] == [
        ("ci", "operator", (), ONE),
        ("an: na", "approver", ("model-risk", "law"), TWO),
    ]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ("[]", "t.yaml:3:9: tokens: found none"),
        (f"[{{name: a, role: owner, sha256: {ONE}}}]", "found 'owner'; allowed: viewer, operator, approver"),
        (f"[{{name: a, role: viewer, sha256: {ONE[1:]}}}]", "sha256"),
        (f"[{{name: a, role: viewer, groups: [Risk], sha256: {ONE}}}]", "tokens[0].groups[0]: found 'Risk'"),
        (f"[{{name: a, role: viewer, groups: risk, sha256: {ONE}}}]", "found 'risk'; allowed: a list"),
        (f"[{{name: a, role: viewer, token: secret, sha256: {ONE}}}]", "unknown key"),
        (
            f"[{{name: a, role: viewer, sha256: {ONE}}}, {{name: a, role: viewer, sha256: {TWO}}}]",
            "the same name",
        ),
        (
            f"[{{name: a, role: viewer, sha256: {ONE}}}, {{name: b, role: viewer, sha256: {ONE}}}]",
            "the same sha256",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(tokens: str, said: str) -> None:
    with pytest.raises(FileError) as wrong:
        parse_tokens(f"{HEAD}tokens: {tokens}\n", "t.yaml")
    assert said in str(wrong.value), str(wrong.value)
    assert str(wrong.value).startswith("t.yaml:3:")
