return require('dgemma.server').config()
