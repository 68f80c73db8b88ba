vim.api.nvim_create_user_command('Dgemma', function(command)
  require('dgemma.command').run(command.fargs)
end, {
  nargs = '*',
  desc = 'Ask the dgemma language server how it is, or pause it',
  complete = function(lead, line)
    return require('dgemma.command').complete(lead, line)
  end,
})
