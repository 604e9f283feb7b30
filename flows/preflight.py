def check_everything(config, only, until):
    pass
