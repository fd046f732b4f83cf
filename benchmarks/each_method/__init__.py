"""Each method of the library in one small setting, so that every page about a method has figures that were run.

    python -m benchmarks.each_method                                    # everything that is not there, three seeds
    python -m benchmarks.each_method --only TRADES L2 --seeds 0 1 2
    python -m benchmarks.each_method --only attacks_linf attacks_l2 --weights FILE --data-dir DIR
    python -m benchmarks.each_method --list
    python -m benchmarks.each_method --table                            # docs/results/methods.md from the files

A study leaves one JSON file in ``--out`` (docs/results/methods), as soon as all its rows are there for a seed; a file
that has a seed is not run again for it. The seed decides initial weights, the order of batches and the attacks' random
starts. Processor time is counted, in one thread, so that other work on the machine matters little.
"""
