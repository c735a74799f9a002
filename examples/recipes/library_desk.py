"""The lending desk of a library: six tools. Each gets what it is called with, and the `state`.

A ValueError is told to the assistant, and whatever a tool has changed until then does not count.
"""

from typing import Annotated, Any

from pydantic import Field

MAX_LOANS = 3

BookId = Annotated[str, Field(description="Id of a book, as find_books gives it, for example b1.")]
ReaderId = Annotated[str, Field(description="Number on the reader's card, for example r1.")]


def find_books(words: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    """Find books by words of their title or author.

    Args:
        words: Words that the title or the author's name has, for example "melville".
    """
    wanted = words.casefold().split()
    return [
        {"id": book_id, "title": book["title"], "author": book["author"], "available": not book["lent_to"]}
        for book_id, book in state["books"].items()
        if all(word in f"{book['title']} {book['author']}".casefold() for word in wanted)
    ]


def reader_account(reader_id: ReaderId, state: dict[str, Any]) -> dict[str, Any]:
    """Show a reader's loans, reservations and fine."""
    reader = _reader(state, reader_id)
    return {
        "name": reader["name"],
        "loans": _loans(state, reader_id),
        "reservations": [key for key, book in state["books"].items() if reader_id in book["reserved_by"]],
        "fine": reader["fine"],
    }


def lend_book(book_id: BookId, reader_id: ReaderId, state: dict[str, Any]) -> str:
    """Lend a book to a reader."""
    book, reader = _book(state, book_id), _reader(state, reader_id)
    if book["lent_to"]:
        raise ValueError(f"{book_id} is lent already; it can be reserved")
    if reader["fine"]:
        raise ValueError(f"{reader_id} has to pay a fine of {reader['fine']} first")
    if len(_loans(state, reader_id)) >= MAX_LOANS:
        raise ValueError(f"{reader_id} has {MAX_LOANS} books already, which is the most")
    if book["reserved_by"] and book["reserved_by"][0] != reader_id:
        raise ValueError(f"{book_id} is reserved for another reader")
    book["lent_to"] = reader_id
    book["reserved_by"] = book["reserved_by"][1:]
    return f"{book['title']} is lent to {reader['name']} for four weeks."


def return_book(book_id: BookId, state: dict[str, Any]) -> str:
    """Take back a book."""
    book = _book(state, book_id)
    if not book["lent_to"]:
        raise ValueError(f"{book_id} is not lent to anybody")
    book["lent_to"] = ""
    waiting = "It is reserved." if book["reserved_by"] else "Nobody is waiting for it."
    return f"{book['title']} is back. {waiting}"


def reserve_book(book_id: BookId, reader_id: ReaderId, state: dict[str, Any]) -> dict[str, int]:
    """Reserve a book that is lent for a reader, who gets it when it is back."""
    book, _ = _book(state, book_id), _reader(state, reader_id)
    if not book["lent_to"]:
        raise ValueError(f"{book_id} is here; it can be lent at once")
    if reader_id in (*book["reserved_by"], book["lent_to"]):
        raise ValueError(f"{reader_id} has {book_id} reserved or lent already")
    book["reserved_by"].append(reader_id)
    return {"position": len(book["reserved_by"])}


async def pay_fine(
    reader_id: ReaderId,
    amount: Annotated[float, Field(gt=0, description="What is paid, in euros.")],
    state: dict[str, Any],
) -> dict[str, float]:
    """Take a payment of a reader's fine."""
    reader = _reader(state, reader_id)
    if amount > reader["fine"]:
        raise ValueError(f"the fine is {reader['fine']}, and {amount} is more")
    reader["fine"] = round(reader["fine"] - amount, 2)
    return {"fine_left": reader["fine"]}


def _book(state: dict[str, Any], book_id: str) -> dict[str, Any]:
    if book_id not in state["books"]:
        raise ValueError(f"there is no book {book_id}; find_books gives the ids")
    book: dict[str, Any] = state["books"][book_id]
    return book


def _reader(state: dict[str, Any], reader_id: str) -> dict[str, Any]:
    if reader_id not in state["readers"]:
        raise ValueError(f"there is no reader {reader_id}")
    reader: dict[str, Any] = state["readers"][reader_id]
    return reader


def _loans(state: dict[str, Any], reader_id: str) -> list[str]:
    return [book_id for book_id, book in state["books"].items() if book["lent_to"] == reader_id]
