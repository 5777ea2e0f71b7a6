"""Notes, in the file that WATCHED names, what a process does that could run code of others.

Python imports a module of this name at the start of every process that has its folder in PYTHONPATH, so that children
of children are watched too.
"""

import os
import sys

SHELLS = ("sh", "bash", "dash", "zsh")
BETWEEN = ("subprocess", "pickle", "_pickle")  # what was asked, not who asked


def note(event: str, given: tuple) -> None:
    """Add a line, who and what, where something named by bytes is looked up or a shell is started."""
    if event == "pickle.find_class":
        what = f"{given[0]}.{given[1]}"
    elif event == "os.system" or (event == "subprocess.Popen" and str(given[0]).rsplit("/", 1)[-1] in SHELLS):
        what = "a shell"
    else:
        return
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") in BETWEEN:
        frame = frame.f_back
    log = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, f"{frame.f_globals.get('__name__')}\t{what}\n".encode())
    os.close(log)


sys.addaudithook(note)
