def add_parser(c): pass
def run(o): return 0
