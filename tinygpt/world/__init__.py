"""The world of the course: a grammar that writes tales and chats, a parser that inverts it, and the skills it needs."""
