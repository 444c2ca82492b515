"""`adapterlab train`: a model, a variant and data in, an adapter file and a loss curve out.

`settings` says what a run is, `command` reads it from the command line, `data` turns examples into rows, `run` trains
with `AdapterTrainer`, `progress` shows it and ends it early where that is asked for, `record` writes what is kept.
"""
