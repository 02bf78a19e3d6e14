"""Failing file operations: at a chosen one the process dies, or the disk is full from then on."""

import builtins
import errno
import io
import os

import safetensors

from tinygpt.io import weights

DIED = 137  # the exit code of a process that SIGKILL ended, as shells say it


class Faults:
    """Counts the operations that change what is in a folder, and fails at one of them.

    `how`: "before" dies in place of operation number `at`, "within" dies after half of a write, "full" lets that
    operation and all that need space after it fail; None only counts. A write reaches the disk at once."""

    def __init__(self, folder, how=None, at=0):
        self.folder, self.how, self.at = os.path.realpath(folder), how, at
        self.met = []

    def meet(self, name, path, half=None, needs_space=True):
        """Count an operation on a path, and fail if it is the chosen one, perhaps after doing `half` of it."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = os.path.abspath(os.fspath(path))
        if not f"{path}/".startswith(f"{self.folder}/"):
            return
        self.met.append((name, os.path.relpath(path, self.folder)))
        if self.how == "full" and needs_space and len(self.met) >= self.at:
            if half:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.how in ("before", "within") and len(self.met) == self.at:
            if self.how == "within" and half:
                half()
            os._exit(DIED)

    def watched(self, name, needs_space=True, which=0):
        """A function of os whose calls are counted; its argument number `which` is the path."""
        real = getattr(os, name)

        def call(*args, **options):
            self.meet(name, args[which], needs_space=needs_space)
            return real(*args, **options)

        return call

    def install(self):
        """Count the operations of this process from now on."""
        real_open, real_os_open, real_write, serialize = io.open, os.open, os.write, safetensors.serialize_file

        def open_file(path, mode="r", *args, **options):
            if not set(mode) & set("wax+"):
                return real_open(path, mode, *args, **options)
            if not isinstance(path, int):
                self.meet("open", path, needs_space=not os.path.exists(path))
            return Watched(real_open(path, mode, *args, **options), path, self)

        def open_descriptor(path, flags, *args, **options):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.meet("open", path, needs_space=not os.path.exists(path))
            return real_os_open(path, flags, *args, **options)

        def write(descriptor, data):
            self.meet("write", descriptor, lambda: real_write(descriptor, data[: len(data) // 2]))
            return real_write(descriptor, data)

        def write_weights(tensors, path, metadata=None):
            def half():
                serialize(tensors, path, metadata)
                os.truncate(path, os.path.getsize(path) // 2)

            try:
                self.meet("write", path, half)
            except OSError as error:
                raise safetensors.SafetensorError(f"Error while serializing: I/O error: {error.strerror}") from None
            serialize(tensors, path, metadata)

        builtins.open = io.open = open_file
        os.open, os.write, weights.serialize_file = open_descriptor, write, write_weights
        for name in "mkdir", "fsync":
            setattr(os, name, self.watched(name))
        for name in "unlink", "remove", "rmdir", "chmod", "truncate", "ftruncate", "utime":
            setattr(os, name, self.watched(name, needs_space=False))
        for name in "replace", "rename", "link", "symlink":
            setattr(os, name, self.watched(name, which=1))
        return self


class Watched:
    """A file open for writing whose operations are counted; what is written leaves the buffer at once."""

    def __init__(self, file, path, faults):
        self.file, self.path, self.faults = file, path, faults

    def write(self, data):
        def half():
            self.file.write(data[: len(data) // 2])
            self.file.flush()

        self.faults.meet("write", self.path, half)
        done = self.file.write(data)
        self.file.flush()
        return done

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def truncate(self, *size):
        self.faults.meet("truncate", self.path, needs_space=False)
        return self.file.truncate(*size)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __iter__(self):
        return iter(self.file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
