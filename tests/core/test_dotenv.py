"""``.env.local`` is read line by line, and a line that is not understood is an error that shows no value."""

import pytest

from flux.dotenv import UnreadableSecretsError, parse_dotenv


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# a comment\n\n   \n", {}),
        ("A=1\nB = two words \n", {"A": "1", "B": "two words"}),
        ("export A=1", {"A": "1"}),
        ("A='  spaced  '\nB=\"quoted\"", {"A": "  spaced  ", "B": "quoted"}),
        ("A=a=b==", {"A": "a=b=="}),
        ("A=", {"A": ""}),
        ("A=$HOME/${X}", {"A": "$HOME/${X}"}),
        ("A=one\nA=two", {"A": "two"}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ("A=ä€", {"A": "ä€"}),
        ("A=one\u2028B=two\x0bC\x85D", {"A": "one\u2028B=two\x0bC\x85D"}),
        ("\ufeffA=1", {"A": "1"}),
    ],
)
def test_a_line_is_a_name_and_its_value(text: str, found: dict[str, str]) -> None:
    assert parse_dotenv(text) == found


@pytest.mark.parametrize(
    "line",
    ["just-text-s3cret", "1A=s3cret", "A B=s3cret", "=s3cret", "A-B=s3cret", "ü=s3cret", "A='s3cret", 'A="'],
)
def test_a_line_that_names_no_secret_is_an_error_with_its_place_and_without_its_text(line: str) -> None:
    with pytest.raises(UnreadableSecretsError) as caught:
        parse_dotenv(f"# first\nGOOD=1\n{line}\n")
    assert ".env.local:3" in caught.value.message
    assert "s3cret" not in caught.value.message + caught.value.remedy
