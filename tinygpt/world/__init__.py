"""The world of the course: a grammar of tales and chats, a parser that finds its choices again, and skills."""
